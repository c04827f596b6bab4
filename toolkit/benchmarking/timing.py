"""Times of one artifact at one batch size, over launches, turns and runs, and its speed against another's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from engines.sessions.base import StageTimes
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.statistics import log_ratio_interval, percentile, summary_intervals

CONFIDENCE = 0.95
"""Of the intervals of one artifact's own figures."""

RATIO_CONFIDENCE = 0.99
"""Of the interval of a speed ratio: a comparison shows a dozen, and one in twenty wrong would be one a table."""

Launches = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds the true one with the confidence that its maker names.

    ``low`` and ``high`` are None when there are too few observations for that confidence.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def contains(self, x: float) -> bool:
        """Whether ``x`` may be the true value; always so without bounds."""
        return self.low is None or self.high is None or self.low <= x <= self.high

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["value"], value["low"], value["high"])


@dataclass(frozen=True)
class Timing:
    """One artifact at one batch size.

    Attributes:
        batch: images a run.
        launches: launch by launch, turn by turn, the seconds of every run. The turns of rivals with the same
            number in the same launch belong to one round; one that sat a round out has an empty turn there.
        p50, p95, p99, mean, minimum: of all runs, in seconds. A percentile is the smallest observed time
            that at least that share of runs kept (nearest rank), so none is ever interpolated beyond
            what was seen; below 100 runs p99 is the slowest.
        images_per_second: images over the sum of the runs' times.
        stages: median seconds of each stage on the device, averaged over launches; None where there is no
            device apart.
        intervals: of "p50", "p95", "p99" and "images_per_second", (low, high) with 95 % confidence by
            bootstrap over launches and turns; empty with too few turns. Of a single launch it holds what turns
            differ by, and not what launches do (where memory lies, say), which is often more.
    """

    batch: int
    launches: Launches
    p50: float
    p95: float
    p99: float
    mean: float
    minimum: float
    images_per_second: float
    stages: StageTimes | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[tuple[float, ...], ...]:
        """The turns that it took, of all launches."""
        return tuple(turn for launch in self.launches for turn in launch if turn)

    @property
    def runs(self) -> int:
        return sum(map(len, self.blocks))

    @classmethod
    def of(cls, batch: int, launches: Sequence[Sequence[Block]], before: "Timing | None" = None) -> Self:
        """Summarise the turns of one artifact; at least one run is needed.

        Args:
            batch: images a run.
            launches: the turns of each launch.
            before: what earlier launches gave, to which these are added.
        """
        medians = [found for found in map(_median_stages, launches) if found is not None]
        if before is not None and before.stages is not None:
            medians += [before.stages] * len(before.launches)
        earlier = before.launches if before else ()
        seconds = (*earlier, *(tuple(block.seconds for block in blocks) for blocks in launches))
        return cls._summary(batch, seconds, _mean_stages(medians))

    @classmethod
    def _summary(cls, batch: int, launches: Launches, stages: StageTimes | None) -> Self:
        times = np.array([second for launch in launches for turn in launch for second in turn], np.float64)
        p50, p95, p99 = (percentile(times, q) for q in (50, 95, 99))
        return cls(
            batch=batch,
            launches=launches,
            p50=p50,
            p95=p95,
            p99=p99,
            mean=float(times.mean()),
            minimum=float(times.min()),
            images_per_second=float(batch * len(times) / times.sum()),
            stages=stages,
            intervals=summary_intervals(launches, batch, CONFIDENCE),
        )

    def first_launches(self, count: int) -> Self | None:
        """The same of its first ``count`` launches alone, but with the stages of all; None for no runs."""
        kept = self.launches[:count]
        if len(kept) == len(self.launches):
            return self
        return self._summary(self.batch, kept, self.stages) if any(map(any, kept)) else None

    def to_json(self) -> dict[str, Any]:
        """Times in seconds; the raw ones rounded to a tenth of a microsecond."""
        stages = self.stages
        return {
            "batch": self.batch,
            "runs": self.runs,
            "launches": len(self.launches),
            "latency_seconds": {
                "p50": self.p50,
                "p95": self.p95,
                "p99": self.p99,
                "mean": self.mean,
                "minimum": self.minimum,
            },
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "images_per_second": self.images_per_second,
            "stage_seconds": stages
            and {"copy_in": stages.copy_in, "device": stages.device, "copy_out": stages.copy_out},
            "run_seconds": [[[round(second, 7) for second in turn] for turn in launch] for launch in self.launches],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        latency, stages = value["latency_seconds"], value["stage_seconds"]
        return cls(
            batch=value["batch"],
            launches=tuple(tuple(tuple(map(float, turn)) for turn in launch) for launch in value["run_seconds"]),
            p50=latency["p50"],
            p95=latency["p95"],
            p99=latency["p99"],
            mean=latency["mean"],
            minimum=latency["minimum"],
            images_per_second=value["images_per_second"],
            stages=stages and StageTimes(stages["copy_in"], stages["device"], stages["copy_out"]),
            intervals={name: (low, high) for name, (low, high) in value["intervals"].items()},
        )


def speed_ratio(reference: Timing, timing: Timing) -> Interval:
    """How many times the reference's speed: above 1 is faster. See :func:`statistics.log_ratio_interval`."""
    pairs = [
        [
            float(np.log(np.median(a) / np.median(b))) if a and b else float("nan")
            for a, b in zip(one, other, strict=False)
        ]
        for one, other in zip(reference.launches, timing.launches, strict=False)
    ]
    value, low, high = log_ratio_interval(pairs, RATIO_CONFIDENCE)
    if low is None or high is None:
        return Interval(float(np.exp(value)))
    return Interval(*map(float, np.exp((value, low, high))))


def _median_stages(blocks: Iterable[Block]) -> StageTimes | None:
    table = np.array([(s.copy_in, s.device, s.copy_out) for block in blocks for s in block.stages], np.float64)
    return StageTimes(*map(float, np.median(table, axis=0))) if len(table) else None


def _mean_stages(stages: Sequence[StageTimes]) -> StageTimes | None:
    table = np.array([(s.copy_in, s.device, s.copy_out) for s in stages], np.float64)
    return StageTimes(*map(float, table.mean(axis=0))) if len(table) else None
