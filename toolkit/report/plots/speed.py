"""Latency and throughput against the batch size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.report.artifacts import Artifact
from toolkit.report.plots.canvas import Canvas, Size, draw, series
from toolkit.report.plots.scales import WIDE_RANGE, linear, logarithmic, mark
from toolkit.report.pointers import Figures, at

if TYPE_CHECKING:
    from markupsafe import Markup

SIZES = (Size("wide", 520, 360), Size("narrow", 340, 300, 50))


@dataclass(frozen=True)
class _Quantity:
    """What is drawn over the batch size: where a speed has it and its interval, and how it is shown."""

    name: str
    key: str
    interval: str
    factor: float
    form: str
    unit: str
    title: str


_LATENCY = _Quantity(
    "latency", "latency_seconds/p50", "p50", 1000, "milliseconds", "ms", "median latency of a batch, ms"
)
_THROUGHPUT = _Quantity(
    "throughput", "images_per_second", "images_per_second", 1, "rate", "images/s", "throughput, images/s"
)


def latency(figures: Figures, artifacts: Sequence[Artifact]) -> "Markup | None":
    """Median latency over the batch size, both logarithmic; None with fewer than two batch sizes."""
    return _over_batch(figures, artifacts, _LATENCY)


def throughput(figures: Figures, artifacts: Sequence[Artifact]) -> "Markup | None":
    """Images a second over the batch size; None with fewer than two batch sizes."""
    return _over_batch(figures, artifacts, _THROUGHPUT)


def _over_batch(figures: Figures, artifacts: Sequence[Artifact], quantity: _Quantity) -> "Markup | None":
    sizes = sorted({speed["batch"] for one in artifacts for speed in one.row["speed"]})
    if len(sizes) < 2:
        return None
    return draw(
        SIZES,
        lambda canvas: _plot(canvas, figures, artifacts, sizes, quantity),
        label=_fact(figures, artifacts, sizes[-1], quantity),
        name=quantity.name,
    )


def _fact(figures: Figures, artifacts: Sequence[Artifact], batch: int, quantity: _Quantity) -> str:
    found = [(figures.value(f"{at}/{quantity.key}"), one) for one in artifacts if (at := one.speed_at(batch))]
    if not found:
        return f"{quantity.title} over the batch size"
    best = (min if quantity is _LATENCY else max)(found, key=lambda pair: pair[0])[1]
    at_best = figures.text(f"{best.speed_at(batch)}/{quantity.key}", quantity.form)
    return f"{quantity.title} over the batch size. Best at batch {batch}: {best.name} with {at_best} {quantity.unit}."


def _plot(
    canvas: Canvas, figures: Figures, artifacts: Sequence[Artifact], sizes: Sequence[int], quantity: _Quantity
) -> None:
    axes, factor = canvas.axes, quantity.factor
    values: list[float] = []
    for artifact in artifacts:
        pointers = [at(artifact.at, "speed", number) for number in range(len(artifact.row["speed"]))]
        pointers.sort(key=lambda one: int(figures.value(at(one, "batch"))))
        if not pointers:
            continue
        batches = [figures.value(at(one, "batch")) for one in pointers]
        middles = [factor * figures.value(f"{one}/{quantity.key}") for one in pointers]
        bounds = [figures.value(at(one, "intervals", quantity.interval)) for one in pointers]
        colour = series(artifact.colour)
        ranges = [(factor * b[0], factor * b[1]) if b else (m, m) for b, m in zip(bounds, middles, strict=True)]
        lows, highs = zip(*ranges, strict=True)
        axes.fill_between(batches, lows, highs, color=colour, alpha=0.16, linewidth=0, zorder=2)
        axes.plot(batches, middles, color=colour, linewidth=2.4 if artifact.recommended else 1.6, zorder=3)
        for pointer, batch, middle in zip(pointers, batches, middles, strict=True):
            where = f"{pointer}/{quantity.key}"
            text = f"{artifact.name} at batch {batch}: {figures.text(where, quantity.form)} {quantity.unit}"
            axes.plot(batch, middle, artifact.marker, color=colour, markersize=6, clip_on=False, zorder=4,
                      gid=canvas.note(text, **figures.marked(where)))  # fmt: skip
        values += [value for pair in ranges for value in pair]
    _axes(canvas, sizes, values, quantity)


def _axes(canvas: Canvas, sizes: Sequence[int], values: Sequence[float], quantity: _Quantity) -> None:
    axes = canvas.axes
    logarithmic(axes.xaxis, sizes[0] / 1.12, sizes[-1] * 1.12)
    most = 6 if canvas.narrow else 10
    mark(axes.xaxis, sizes if len(sizes) <= most else sizes[:: -(-len(sizes) // most)])
    low, high = min(values), max(values)
    if quantity is _LATENCY or high / low > 2.5 * WIDE_RANGE:
        logarithmic(axes.yaxis, low / 1.15, high * 1.15)
    else:
        linear(axes.yaxis, 0, high * 1.06)
    axes.set_xlabel("batch size")
    axes.set_ylabel(quantity.title)
