"""How latency is distributed: the share of runs that were done by a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.report.artifacts import Artifact
from toolkit.report.plots.canvas import SOFT, Canvas, Size, draw, series
from toolkit.report.plots.scales import WIDE_RANGE, linear, logarithmic, mark
from toolkit.report.pointers import Figures, at

if TYPE_CHECKING:
    from markupsafe import Markup

SIZES = (Size("wide", 900, 330), Size("narrow", 340, 300, 50))
STEPS = 200
"""Steps of a curve at most: more than a screen can show apart."""

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def distribution(figures: Figures, artifacts: Sequence[Artifact], batch: int) -> "Markup | None":
    """The empirical distribution of all runs at one batch size, p50, p95 and p99 marked; None without any runs."""
    found = [(one, speed, _runs(figures, speed)) for one in artifacts if (speed := one.speed_at(batch))]
    found = [(one, speed, runs) for one, speed, runs in found if len(runs) > 1]
    if not found:
        return None
    worst = max(found, key=lambda one: _tail(figures, one[1]))
    return draw(
        SIZES,
        lambda canvas: _plot(canvas, figures, found, batch),
        label=f"Share of runs done within a time, at batch {batch}. The longest tail has {worst[0].name}: its p99 is "
        f"{_tail(figures, worst[1]):.2f} times its median.",
        name="distribution",
    )


def _runs(figures: Figures, speed: str) -> NDArray[np.float64]:
    launches = figures.value(at(speed, "run_seconds")) or ()
    return np.sort(np.array([second for launch in launches for turn in launch for second in turn], np.float64))


def _tail(figures: Figures, speed: str) -> float:
    latency = figures.value(at(speed, "latency_seconds"))
    return float(latency["p99"] / latency["p50"])


def _plot(
    canvas: Canvas, figures: Figures, found: Sequence[tuple[Artifact, str, NDArray[np.float64]]], batch: int
) -> None:
    axes = canvas.axes
    low = 1000 * min(runs[0] for _, _, runs in found)
    high = 1000 * max(max(figures.value(at(speed, "latency_seconds", "p99")), runs[-1]) for _, speed, runs in found)
    if high / low > WIDE_RANGE:
        logarithmic(axes.xaxis, low / 1.05, high * 1.05, 5 if canvas.narrow else 9)
    else:
        linear(axes.xaxis, low - 0.03 * (high - low), high + 0.03 * (high - low), 4 if canvas.narrow else 8)
    axes.set_ylim(0, 1.03)
    mark(
        axes.yaxis, [0, 0.25, 0.5, 0.75, 0.95, 0.99], ["0", "25", "50", "75", "95", "99" if not canvas.narrow else ""]
    )
    axes.set_xlabel(f"latency of a batch of {batch}, ms")
    axes.set_ylabel("runs done by then, %")
    for share in PERCENTILES.values():
        axes.axhline(share, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    for artifact, speed, runs in found:
        colour = series(artifact.colour)
        x, y = steps(runs)
        axes.step(1000 * x, y, where="post", color=colour, linewidth=2.2 if artifact.recommended else 1.5, zorder=3)
        for name, share in PERCENTILES.items():
            where = at(speed, "latency_seconds", name)
            text = f"{artifact.name}: {name} is {figures.text(where, 'milliseconds')} ms"
            axes.plot(1000 * figures.value(where), share, artifact.marker, color=colour, markersize=7, zorder=4,
                      gid=canvas.note(text, **figures.marked(where)))  # fmt: skip


def steps(runs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distribution's corners: all of a few runs, else evenly spaced quantiles.

    Args:
        runs: float64 [N], sorted.

    Returns:
        float64 [M] times and float64 [M] shares of runs done by then, the first of them 0.
    """
    count = len(runs)
    numbers = np.arange(count) if count <= STEPS else np.unique(np.linspace(0, count - 1, STEPS).round().astype(int))
    shares = (numbers + 1) / count
    return np.concatenate([runs[:1], runs[numbers]]), np.concatenate([[0.0], shares])
