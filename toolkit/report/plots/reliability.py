"""Accuracy against confidence: a classifier that is as often right as it is sure lies on the diagonal."""

from typing import TYPE_CHECKING

from toolkit.report.artifacts import Artifact
from toolkit.report.plots.canvas import SOFT, Canvas, Size, draw, series
from toolkit.report.plots.scales import mark
from toolkit.report.pointers import Figures, at

if TYPE_CHECKING:
    from markupsafe import Markup

SIZES = (Size("one", 240, 230, 48),)


def reliability(figures: Figures, artifact: Artifact) -> "Markup":
    """The reliability diagram of one artifact (Guo et al. 2017, figure 1); a point's area is its share of images."""
    ece = figures.text(at(artifact.at, "accuracy", "confidence", "ece"), "fraction")
    return draw(
        SIZES,
        lambda canvas: _plot(canvas, figures, artifact),
        label=f"Reliability of {artifact.name}: expected calibration error {ece}.",
        name=f"reliability{artifact.index}",
    )


def _plot(canvas: Canvas, figures: Figures, artifact: Artifact) -> None:
    axes, colour = canvas.axes, series(artifact.colour)
    where = at(artifact.at, "accuracy", "confidence", "bins")
    bins = figures.value(where)
    total = sum(one["count"] for one in bins)
    axes.plot((0, 1), (0, 1), color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    filled = [(number, one) for number, one in enumerate(bins) if one["count"]]
    axes.plot([one["confidence"] for _, one in filled], [one["accuracy"] for _, one in filled], color=colour,
              linewidth=1.2, alpha=0.6, zorder=3)  # fmt: skip
    for number, one in filled:
        axes.vlines(
            one["confidence"], one["confidence"], one["accuracy"], color=colour, linewidth=4, alpha=0.2, zorder=2
        )
        confidence, accuracy, count = (at(where, number, name) for name in ("confidence", "accuracy", "count"))
        text = (
            f"{figures.text(count, 'count')} images: sure by {figures.text(confidence, 'percent')}, "
            f"right in {figures.text(accuracy, 'percent')}"
        )
        axes.plot(
            one["confidence"], one["accuracy"], artifact.marker, color=colour, alpha=0.9, clip_on=False, zorder=4,
            markersize=4 + 12 * (one["count"] / total) ** 0.5, markeredgewidth=0,
            gid=canvas.note(text, **figures.marked(confidence, accuracy, count)),
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        mark(axis, [0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("accuracy, %")
