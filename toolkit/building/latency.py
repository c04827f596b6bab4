"""What a set of kept layers costs in time: engines measured against each other, in turns."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ToolkitError
from engines.progress import QUIET, Progress
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.rounds import Pace, take_turns
from toolkit.benchmarking.timing import Interval, speed_ratio

PACE = Pace(seconds=1.0, rounds=10)


@dataclass(frozen=True)
class Latency:
    """One variant at one batch size.

    Attributes:
        variant: "FP32", "INT8, nothing kept", "INT8, 2 kept".
        batch: images a run.
        seconds: the median of a run, from host memory to host memory.
        ratio: times the speed of the first variant; None for the first.
    """

    variant: str
    batch: int
    seconds: float
    ratio: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "batch": self.batch,
            "p50_seconds": self.seconds,
            "speed": self.ratio and self.ratio.to_json(),
        }


def measure_latency(
    variants: Mapping[str, Path], *, batch: int = 1, pace: Pace | None = None, progress: Progress = QUIET
) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
    """Time every variant in a process of its own, taking turns.

    Args:
        variants: the file of each by what reports call it; the first is what the others are compared with.
        batch: images a run.
        pace: how long; None takes :data:`PACE`.
        progress: told of every turn.

    Returns:
        A figure for each that ran, in order; and a line for each that didn't.
    """
    pace = pace or PACE
    notes: dict[str, str] = {}

    def failed(name: str, error: ToolkitError) -> None:
        notes[name] = f"latency of {name} was not measured: {error.cause}"

    with contextlib.ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for name, path in variants.items():
            worker = stack.enter_context(WorkerProcess(Contestant(str(path), name)))
            try:
                worker.open()
                workers[name] = worker
            except ToolkitError as error:
                failed(name, error)
        progress.begin("measuring the latency", len(workers) * pace.rounds, "turns")
        try:
            timings = take_turns(workers, batch, pace, failed, progress.advance)
        finally:
            progress.end()
    base = timings.get(next(iter(variants)))
    found = tuple(
        Latency(name, batch, timing.p50, speed_ratio(base, timing) if base and timing is not base else None)
        for name, timing in ((name, timings[name]) for name in variants if name in timings)
    )
    return found, tuple(notes.values())
