"""What was taken for what, as a heat map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.report.artifacts import shortened
from toolkit.report.plots.canvas import BAD, EDGE, FONT, GOOD, HEAT, INK, LINE, Canvas, Size, draw
from toolkit.report.plots.scales import mark

if TYPE_CHECKING:
    from markupsafe import Markup

SMALL = 14
"""Classes up to which each cell has its number in it."""


def heat_map(
    counts: NDArray[np.int64], labels: Sequence[str], *, name: str, label: str, pointer: str, signed: bool = False
) -> "Markup":
    """A confusion matrix; the diagonal of a difference is good where it grows, the rest where it shrinks.

    Args:
        counts: int64 [true, predicted]; of a difference, this minus the reference.
        labels: the classes' names.
        name: of the figure, unique on the page.
        label: for those who don't see it.
        pointer: of the confusion in the record.
        signed: it is a difference.
    """
    small = len(labels) <= SMALL
    font = FONT - 1 if small else FONT - 3
    names = [shortened(one, 7 if small else 6) for one in labels]
    longest = max(map(len, names))
    upright = longest > 2 and len(labels) > 4
    left, bottom = 30 + 0.65 * font * longest, 38 + (0.65 * font * longest - 10 if upright else 0)
    side = (300 if small else 430) - EDGE
    size = Size("one", side + left, side + bottom, left, bottom)
    return draw(
        (size,),
        lambda canvas: _plot(canvas, counts, labels, names, pointer, upright=upright, signed=signed),
        label=label,
        name=name,
    )


def _plot(
    canvas: Canvas,
    counts: NDArray[np.int64],
    labels: Sequence[str],
    names: Sequence[str],
    pointer: str,
    *,
    upright: bool,
    signed: bool,
) -> None:
    from matplotlib.patches import Rectangle

    axes, classes = canvas.axes, len(labels)
    images = np.maximum(1, counts.sum(axis=1)) if not signed else np.full(classes, max(1, np.abs(counts).max()))
    axes.set_xlim(-0.5, classes - 0.5)
    axes.set_ylim(classes - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    derived = "difference" if signed else "cell"
    for true, predicted in zip(*np.nonzero(counts), strict=True):
        count = int(counts[true, predicted])
        better = (count > 0) == (true == predicted)
        shade = abs(count) / images[true]
        colour = (GOOD if better else BAD) if signed else (HEAT if true == predicted else BAD)
        shown = f"{count:+d}" if signed else f"{count}"
        text = f"{labels[true]} taken for {labels[predicted]}: {shown}"
        facts = {"record": pointer, "derived": f"{derived} {true} {predicted}", "value": str(count)}
        axes.add_patch(
            Rectangle((predicted - 0.46, true - 0.46), 0.92, 0.92, facecolor=colour, linewidth=0,
                      alpha=0.18 + 0.5 * min(1.0, float(shade)), gid=canvas.note(text, **facts))
        )  # fmt: skip
        if classes <= SMALL:
            axes.text(
                predicted, true, shown.replace("-", "−"), ha="center", va="center", fontsize=FONT - 1.5, color=INK
            )
    mark(axes.xaxis, range(classes), names)
    mark(axes.yaxis, range(classes), names)
    axes.tick_params(labelsize=FONT - 1 if classes <= SMALL else FONT - 3)
    if upright:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(LINE)
