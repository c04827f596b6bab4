"""Accuracy against latency: what is to be gained, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from toolkit.report.artifacts import Artifact
from toolkit.report.plots.canvas import FONT, INK, PAPER, SOFT, Canvas, Size, draw, series
from toolkit.report.plots.labels import Label, place
from toolkit.report.plots.scales import WIDE_RANGE, linear, logarithmic
from toolkit.report.pointers import Figures, at

if TYPE_CHECKING:
    from markupsafe import Markup

SIZES = (Size("wide", 900, 430), Size("narrow", 340, 330, 46))


@dataclass(frozen=True)
class _Point:
    artifact: Artifact
    latency: str
    rate: str
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def pareto(figures: Figures, artifacts: Sequence[Artifact], batch: int) -> "Markup | None":
    """Accuracy over the median latency at one batch size; None for fewer than two artifacts that have both."""
    found = [_point(figures, one, batch) for one in artifacts]
    points = [one for one in found if one is not None]
    if len(points) < 2:
        return None
    best = frontier([(point.x, point.y) for point in points])
    names = ", ".join(points[number].artifact.name for number in best)
    return draw(
        SIZES,
        lambda canvas: _plot(canvas, figures, points, best, batch),
        label=f"Top-1 accuracy over median latency at batch {batch}. Not beaten in both: {names}.",
        name="pareto",
    )


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (latency, accuracy) that no other beats in one without being worse in the other."""
    best, kept = float("-inf"), []
    for number in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        if points[number][1] > best:
            best = points[number][1]
            kept.append(number)
    return kept


def _point(figures: Figures, artifact: Artifact, batch: int) -> _Point | None:
    speed, rate = artifact.speed_at(batch), at(artifact.at, "accuracy", "top1", "rate")
    if speed is None or figures.value(rate) is None:
        return None
    latency = at(speed, "latency_seconds", "p50")
    x, y = figures.value(latency), figures.value(rate)
    low, high = figures.value(at(speed, "intervals", "p50")) or (x, x)
    share = figures.value(at(artifact.at, "accuracy", "top1"))
    return _Point(
        artifact,
        latency,
        rate,
        1000 * x,
        100 * y,
        (1000 * low, 1000 * high),
        (100 * share["low"], 100 * share["high"]),
    )


def _plot(canvas: Canvas, figures: Figures, points: Sequence[_Point], best: Sequence[int], batch: int) -> None:
    axes = canvas.axes
    lows, highs = [point.x_range[0] for point in points], [point.x_range[1] for point in points]
    wide = max(highs) / min(lows) > WIDE_RANGE
    if wide:
        logarithmic(axes.xaxis, min(lows) / 1.25, max(highs) * 1.45, 5 if canvas.narrow else 8)
    else:
        spare = 0.16 * (max(highs) - min(lows)) or 0.2 * max(highs)
        linear(axes.xaxis, max(0, min(lows) - spare), max(highs) + 1.6 * spare, 4 if canvas.narrow else 7)
    bottom, top = min(point.y_range[0] for point in points), max(point.y_range[1] for point in points)
    spare = 0.08 * (top - bottom) or 1
    linear(axes.yaxis, bottom - spare, top + spare, 6)
    axes.set_xlabel(f"median latency of a batch of {batch}, ms" + (" (log scale)" if wide else ""))
    axes.set_ylabel("top-1 accuracy, %")
    _draw_frontier(canvas, [points[number] for number in best])
    for point in points:
        _draw_point(canvas, figures, point)
    axes.text(
        0.008, 0.985, "↖ faster and more accurate", transform=axes.transAxes, va="top", fontsize=FONT - 1, color=SOFT
    )
    line = [points[number] for number in best]
    steps = [one for a, b in pairwise(line) for one in ((a.x, a.y, b.x, a.y), (b.x, a.y, b.x, b.y))]
    bars = [
        one
        for p in points
        for one in ((p.x_range[0], p.y, p.x_range[1], p.y), (p.x, p.y_range[0], p.x, p.y_range[1]))
    ]
    place(
        canvas, [Label(one.artifact.short, one.x, one.y, one.artifact.recommended) for one in points], [*steps, *bars]
    )


def _draw_frontier(canvas: Canvas, points: Sequence[_Point]) -> None:
    axes = canvas.axes
    if len(points) > 1:
        axes.step([one.x for one in points], [one.y for one in points], where="post", color=SOFT, linewidth=1.4,
                  linestyle=(0, (4, 3)), zorder=2)  # fmt: skip


def _draw_point(canvas: Canvas, figures: Figures, point: _Point) -> None:
    artifact, axes = point.artifact, canvas.axes
    colour = series(artifact.colour)
    axes.plot(point.x_range, (point.y, point.y), color=colour, linewidth=1.6, alpha=0.55, zorder=3)
    axes.plot((point.x, point.x), point.y_range, color=colour, linewidth=1.6, alpha=0.55, zorder=3)
    if artifact.recommended:
        axes.plot(
            point.x, point.y, "o", markersize=21, color="none", markeredgecolor=INK, markeredgewidth=1.4, zorder=4
        )
    roles = [name for name, has in (("recommended", artifact.recommended), ("dominated", artifact.dominated),
                                    ("the reference", artifact.is_reference)) if has]  # fmt: skip
    role = f" ({', '.join(roles)})" if roles else ""
    latency, rate = figures.text(point.latency, "milliseconds"), figures.text(point.rate, "percent")
    text = f"{artifact.name}{role}: {latency} ms, {rate}"
    axes.plot(
        point.x, point.y, artifact.marker, markersize=10, markeredgecolor=colour, markeredgewidth=2, zorder=5,
        markerfacecolor=PAPER if artifact.dominated else colour, clip_on=False,
        gid=canvas.note(text, **figures.marked(point.latency, point.rate)),
    )  # fmt: skip
