"""Axes that are read without effort: ticks at round values, labelled as the tables write them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis

WIDE_RANGE = 4.0
"""From this ratio of the largest value to the smallest on an axis is logarithmic."""


def round_values(low: float, high: float, most: int = 7) -> list[float]:
    """Values of the series 1, 2, 5, 10 … from ``low`` to ``high``: a finer or coarser one, for at most so many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) <= most:
            return inside
    stride = math.ceil(len(inside) / most)
    return inside[::stride]


def plain(value: float) -> str:
    """A tick's label: no exponent, no needless zeros."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def logarithmic(axis: "Axis", low: float, high: float, most: int = 7) -> None:
    """Make an axis logarithmic, with labels that are numbers and not powers."""
    _scale(axis, "log")
    _limits(axis, low, high)
    mark(axis, round_values(low, high, most))


def linear(axis: "Axis", low: float, high: float, most: int = 6) -> None:
    """Keep an axis linear with at most so many ticks at round values."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    _limits(axis, low, high)
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(round(value, 9))))


def mark(axis: "Axis", values: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Ticks at these values alone."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FixedFormatter(list(labels) if labels else [plain(value) for value in values]))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _scale(axis: "Axis", kind: str) -> None:
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)(kind)  # type: ignore[attr-defined]


def _limits(axis: "Axis", low: float, high: float) -> None:
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low, high)  # type: ignore[attr-defined]
