"""Figures on the page that know where in the record they stand, so that a test can hold each against it.

An element of a figure has three attributes: ``data-record``, the JSON pointer of the figure in the record (RFC 6901,
without the leading slash); ``data-value``, the figure unrounded; ``data-format``, the name in
:data:`toolkit.report.formats.FORMATS` that made the text. A figure that the record holds the parts of has
``data-derived`` too, which says how it follows from what ``data-record`` points to.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.report.formats import FORMATS

if TYPE_CHECKING:
    from markupsafe import Markup

NONE = "\N{EN DASH}"
"""What is shown for a figure that there is none of."""


def step(key: object) -> str:
    """One step of a pointer: a key with the two characters escaped that have a meaning in it."""
    return str(key).replace("~", "~0").replace("/", "~1")


def at(*keys: object) -> str:
    """The pointer of these keys and indices; whole pointers may be among them when they come first."""
    first, *others = keys
    return "/".join([str(first), *map(step, others)])


def look_up(record: Any, pointer: str) -> Any:
    """What stands at ``pointer``; None where something on the way is None or isn't there."""
    value = record
    for escaped in pointer.split("/"):
        key = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            return None
    return value


class Figures:
    """The figures of one record, as text and as elements."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    def value(self, pointer: str) -> Any:
        return look_up(self.record, pointer)

    def text(self, pointer: str, form: str) -> str:
        """The figure rounded; a dash where there is none."""
        value = self.value(pointer)
        return NONE if value is None else FORMATS[form](value)

    def marked(self, *pointers: str) -> dict[str, str]:
        """Data attributes of a point that shows these figures: pointers and values, apart by a blank each."""
        values = (json.dumps(self.value(pointer)) for pointer in pointers)
        return {"record": " ".join(pointers), "value": " ".join(values)}

    def element(self, pointer: str, form: str, unit: str = "") -> "Markup":
        """The figure as an element of the page."""
        value = self.value(pointer)
        return none() if value is None else element(pointer, value, form, unit=unit)

    def interval(self, low: str, high: str, form: str, between: str = "\N{EN DASH}") -> "Markup":
        """Two bounds in brackets; nothing where there are none."""
        from markupsafe import Markup

        if self.value(low) is None or self.value(high) is None:
            return Markup("")
        return Markup('<span class="ci">({}{}{})</span>').format(
            self.element(low, form), between, self.element(high, form)
        )


def element(pointer: str, value: float, form: str, *, derived: str = "", unit: str = "") -> "Markup":
    """One figure as an element; ``unit`` follows the figure and isn't part of it."""
    from markupsafe import Markup

    return Markup('<span class="n"{}{}>{}</span>{}').format(
        attributes({"record": pointer, "value": json.dumps(value), "format": form}),
        attributes({"derived": derived}) if derived else "",
        FORMATS[form](value),
        f"\N{NO-BREAK SPACE}{unit}" if unit else "",
    )


def attributes(values: Mapping[str, str]) -> "Markup":
    """Data attributes of these names and values, escaped."""
    from markupsafe import Markup

    return Markup("").join(Markup(' data-{}="{}"').format(name, value) for name, value in values.items())


def none() -> "Markup":
    """What is shown where there is no figure."""
    from markupsafe import Markup

    return Markup('<span class="none" aria-label="none">{}</span>').format(NONE)
