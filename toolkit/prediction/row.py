"""One picture's line in the journal and in the results."""

import json
import os
from dataclasses import dataclass
from typing import Any, Self

from engines.errors import DataError
from toolkit.runtime.prediction import Candidate, Prediction

COLUMNS = ("file", "label", "index", "probability", "top", "error")
"""What results hold of each picture. ``top`` lists the likeliest classes, of which the three before it are the first;
where ``error`` says what is wrong with the picture, all four are empty."""


@dataclass(frozen=True)
class Row:
    """What is known of one picture.

    Attributes:
        file: its path as it was given or found; bytes that aren't UTF-8 are lone surrogates, as Python has them.
        top: the likeliest classes; empty where the picture is damaged.
        error: what is wrong with it; empty where nothing is.
    """

    file: str
    top: tuple[Candidate, ...] = ()
    error: str = ""

    @classmethod
    def of(cls, file: str | os.PathLike[str], answer: Prediction | DataError) -> Self:
        """The row of a predictor's answer."""
        if isinstance(answer, DataError):
            return cls(os.fspath(file), error=answer.cause)
        return cls(os.fspath(file), answer.top)

    def dumps(self) -> bytes:
        """One line of ASCII JSON, its end included."""
        value: dict[str, Any] = {"file": self.file}
        if self.error:
            value["error"] = self.error
        else:
            value["top"] = [[one.label, one.index, one.probability] for one in self.top]
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def loads(cls, line: bytes) -> Self:
        """Read what :meth:`dumps` wrote.

        Raises:
            ValueError: it isn't that.
        """
        try:
            value = json.loads(line)
            top = tuple(Candidate(str(label), int(index), float(p)) for label, index, p in value.get("top", ()))
            return cls(str(value["file"]), top, str(value.get("error", "")))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no row: {error}") from error

    def cells(self) -> dict[str, Any]:
        """By :data:`COLUMNS`: values that are ready for JSON, None where there is none."""
        first = self.top[0] if self.top else None
        return {
            "file": readable(self.file),
            "label": first.label if first else None,
            "index": first.index if first else None,
            "probability": first.probability if first else None,
            "top": [{"label": one.label, "index": one.index, "probability": one.probability} for one in self.top],
            "error": readable(self.error) if self.error else None,
        }


def readable(text: str) -> str:
    r"""Text that is valid Unicode: bytes of a file's name that aren't UTF-8 become ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
