"""Names beside points, where there is room for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.report.plots.canvas import FONT, HALO, INK

if TYPE_CHECKING:
    from toolkit.report.plots.canvas import Canvas

_GAP = 11.0
_PLACES = (
    *((align, aside, above) for align, aside in (("left", _GAP), ("right", -_GAP)) for above in (0.3, -1.1)),
    *((align, aside, -0.32) for align, aside in (("left", _GAP), ("right", -_GAP))),
    ("center", 0.0, 0.95),
    ("center", 0.0, -1.75),
)
"""Alignment, shift to the side in points, shift upwards in heights of the text: the best place first."""


@dataclass(frozen=True)
class Label:
    """A name and the point, in the axes' values, that it belongs to."""

    text: str
    x: float
    y: float
    strong: bool = False


def place(canvas: "Canvas", labels: Sequence[Label], lines: Sequence[tuple[float, float, float, float]] = ()) -> None:
    """Write each name beside its point where it covers no other point, no name and no edge; the important first.

    Among such places one that crosses no line is taken if there is one. A name without any is left out: the legend
    has it.

    Args:
        canvas: its axes' limits are final.
        labels: of the points.
        lines: vertical and horizontal ones to keep clear of where possible: x0, y0, x1, y1 in the axes' values.
    """
    left, bottom, right, top = canvas.frame()
    points = [_pixels(canvas, label.x, label.y) for label in labels]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    crossed = [_box(_pixels(canvas, *line[:2]), _pixels(canvas, *line[2:])) for line in lines]
    for number in sorted(range(len(labels)), key=lambda one: not labels[one].strong):
        label, (x, y) = labels[number], points[number]
        size = FONT if label.strong else FONT - 0.5
        width = 0.56 * size * len(label.text) * (1.08 if label.strong else 1)  # as wide as system fonts write it
        others = [one for index, one in enumerate(taken) if index != number]
        free: list[tuple[int, int, str, float, float, tuple[float, float, float, float]]] = []
        for align, aside, above in _PLACES:
            start = x + aside - {"left": 0, "right": width, "center": width / 2}[align]
            box = (start, y + (above - 0.2) * size, start + width, y + (above + 1) * size)
            inside = left <= box[0] and box[2] <= right and bottom <= box[1] and box[3] <= top
            if inside and not any(_overlap(box, other) for other in others):
                free.append((sum(_overlap(box, line) for line in crossed), len(free), align, aside, above, box))
        if free:
            _, _, align, aside, above, box = min(free)
            canvas.axes.annotate(
                label.text, (label.x, label.y), (aside, above * size), textcoords="offset points", ha=align,
                va="baseline", fontsize=size, color=INK, fontweight="bold" if label.strong else "normal", zorder=9,
                gid=HALO,
            )  # fmt: skip
            taken.append(box)


def _pixels(canvas: "Canvas", x: float, y: float) -> tuple[float, float]:
    """Where a point of the axes lies, in CSS pixels from the figure's lower left."""
    across, up = canvas.axes.transData.transform((x, y)) * 72 / canvas.figure.dpi
    return float(across), float(up)


def _box(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float, float, float]:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[0], other[0]), max(one[1], other[1])


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
