"""How large a request may be, checked against the bytes that are there before anything is allocated."""

from collections.abc import Sequence
from dataclasses import dataclass

from engines.errors import InputError
from toolkit.server.protocol.messages import TooLargeError

MAX_RANK = 32
"""Dimensions of a tensor: what numpy took at most before its version 2."""

MAX_TENSORS = 256
"""Inputs, or outputs, of a request; networks have a handful."""

MAX_LISTS = 1 << 20
"""Lists and objects in a request's JSON. Each takes three bytes there and up to two hundred once it is read, so a
body that is within its limit could fill the memory with them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes.

    Attributes:
        max_body: bytes of a message, once it is decompressed.
        max_elements: elements of a tensor.
    """

    max_body: int = 64 << 20
    max_elements: int = 64 << 20

    def check_body(self, size: int) -> None:
        """Refuse a message by its size in bytes.

        Raises:
            TooLargeError: it is larger than ``max_body``.
        """
        if size > self.max_body:
            raise TooLargeError(
                f"the request has {size} bytes, and the server takes at most {self.max_body}",
                "send fewer samples at once, or as binary data",
            )

    def count(self, name: str, shape: Sequence[object]) -> int:
        """The number of elements of a tensor of this shape.

        Raises:
            InputError: a dimension is no whole number, or negative, or there are too many.
            TooLargeError: there are more than ``max_elements``.
        """
        if len(shape) > MAX_RANK:
            raise InputError(
                f"input {short(name)} has {len(shape)} dimensions", f"a tensor has at most {MAX_RANK} of them"
            )
        count, size = 1, 1
        for dimension in shape:
            if type(dimension) is not int or dimension < 0:
                raise InputError(
                    f"the shape of input {short(name)} holds {short(dimension)}",
                    "a shape is a list of whole numbers that aren't negative: those of the data",
                )
            count *= dimension
            size *= dimension or 1
        # An empty array's other dimensions count too: numpy holds their product in a machine word.
        if size > self.max_elements:
            raise TooLargeError(
                f"input {short(name)} has {size} elements, and the server takes at most {self.max_elements}",
                "send fewer samples at once",
            )
        return count


SHOWN = 60
"""Characters of a caller's value that a message repeats: enough to find it by."""


def short(value: object) -> str:
    """A value as a message shows it: quoted, in one line, and cut where it is long."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'}"
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f"'{' '.join(cut.split())}'"
