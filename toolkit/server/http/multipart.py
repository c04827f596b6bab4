"""A picture out of a form: what browsers and ``curl -F`` send."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.optional import require

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Options = Callable[[bytes], tuple[bytes, dict[bytes, bytes]]]

FIELDS = ("file", "image", "picture")
"""What the field may be called."""

MAX_PARTS = 16
"""Fields of a form for one picture; every further one is work for nothing."""


def picture_of(body: bytes, content_type: bytes) -> bytes:
    """The file in a body of ``multipart/form-data``.

    Args:
        body: all of it.
        content_type: the header, which has the boundary.

    Raises:
        InputError: the form is damaged, or hasn't exactly one file in a field of :data:`FIELDS`.
        MissingLibraryError: python-multipart is not installed.
    """
    require("python_multipart", "Taking a picture from a form", "serve")
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    parts = _Parts(parse_options_header)
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _damaged("its header names no boundary")
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError) as error:
        raise _damaged(str(error)) from None
    if not parts.whole:
        raise _damaged("it ends too early")
    pictures = [data for name, data in parts.found if name in FIELDS]
    if len(pictures) != 1:
        names = ", ".join(f"'{name[:40]}'" for name, _ in parts.found) or "none"
        raise InputError(
            f"the form has {len(pictures) or 'no'} pictures; its fields: {names}",
            f"send one picture in the field '{FIELDS[0]}'",
        )
    return pictures[0]


class _Parts:
    """What the parser reports, put together."""

    def __init__(self, options: Options) -> None:
        self.found: list[tuple[str, bytes]] = []
        self.whole = False
        self._options = options
        self._field = self._value = b""
        self._name = ""
        self._data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        """For the parser: pieces of its data as (data, start, end)."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": lambda: self.found.append((self._name, b"".join(self._data))),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.found) >= MAX_PARTS:
            raise InputError(f"the form has more than {MAX_PARTS} fields", "send the picture alone")
        self._name, self._data, self._field, self._value = "", [], b"", b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = self._options(self._value)[1].get(b"name", b"")
            self._name = name.decode("utf-8", "replace")
        self._field = self._value = b""

    def _end(self) -> None:
        self.whole = True


def _damaged(why: str) -> InputError:
    return InputError(f"the form is damaged: {why}", "send multipart/form-data, or the picture alone as the body")
