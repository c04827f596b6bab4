"""Statistics of measured times: percentiles, throughput, and a ratio that says how sure it is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.sessions.base import StageTimes
from toolkit.benchmarking.messages import Block

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds the true one with at least 95 % confidence.

    ``low`` and ``high`` are None when there are too few observations for that confidence.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Timing:
    """One artifact at one batch size.

    Attributes:
        batch: images a run.
        blocks: the seconds of every run, turn by turn.
        p50, p95, p99, mean, minimum: of all runs, in seconds. A percentile is the smallest observed time
            that at least that share of runs kept (nearest rank), so none is ever interpolated beyond
            what was seen; below 100 runs p99 is the slowest.
        images_per_second: images over the sum of the runs' times.
        stages: median seconds of each stage on the device; None where there is no device apart.
    """

    batch: int
    blocks: tuple[tuple[float, ...], ...]
    p50: float
    p95: float
    p99: float
    mean: float
    minimum: float
    images_per_second: float
    stages: StageTimes | None = None

    @property
    def runs(self) -> int:
        return sum(map(len, self.blocks))

    @classmethod
    def of(cls, batch: int, blocks: Sequence[Block]) -> "Timing":
        """Summarise the turns of one artifact; at least one run is needed."""
        times = np.array([second for block in blocks for second in block.seconds], np.float64)
        p50, p95, p99 = (float(np.quantile(times, q, method="inverted_cdf")) for q in (0.5, 0.95, 0.99))
        return cls(
            batch=batch,
            blocks=tuple(block.seconds for block in blocks),
            p50=p50,
            p95=p95,
            p99=p99,
            mean=float(times.mean()),
            minimum=float(times.min()),
            images_per_second=float(batch * len(times) / times.sum()),
            stages=_median_stages(stage for block in blocks for stage in block.stages),
        )

    def to_json(self) -> dict[str, Any]:
        """Times in seconds; the raw ones rounded to a tenth of a microsecond."""
        stages = self.stages
        return {
            "batch": self.batch,
            "runs": self.runs,
            "latency_seconds": {
                "p50": self.p50,
                "p95": self.p95,
                "p99": self.p99,
                "mean": self.mean,
                "minimum": self.minimum,
            },
            "images_per_second": self.images_per_second,
            "stage_seconds": stages
            and {"copy_in": stages.copy_in, "device": stages.device, "copy_out": stages.copy_out},
            "block_seconds": [[round(second, 7) for second in block] for block in self.blocks],
        }


def speed_ratio(reference: Timing, timing: Timing) -> Interval:
    """How many times the reference's speed: above 1 is faster.

    Each round gives one ratio, of the two medians of turns that were neighbours in time, so that a
    clock that drifts or a machine that gets busy changes both. The value is the median of the rounds' ratios;
    the interval is the order-statistics (sign test) interval of a median, which holds whatever the
    distribution (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2). It needs 6 rounds.
    """
    ratios = np.sort(
        [np.median(a) / np.median(b) for a, b in zip(reference.blocks, timing.blocks, strict=False) if a and b]
    )
    if not len(ratios):
        raise ValueError("no round has both")
    value = float(np.median(ratios))
    rank = _sign_test_rank(len(ratios))
    if rank is None:
        return Interval(value)
    return Interval(value, float(ratios[rank]), float(ratios[-1 - rank]))


def _sign_test_rank(count: int) -> int | None:
    """The largest k for which [x(k), x(n-1-k)] (from zero) holds the median with the confidence asked."""
    outside, best = 0.0, None
    for k in range(count // 2):
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        best = k
    return best


def _median_stages(stages: Iterable[StageTimes]) -> StageTimes | None:
    table = np.array([(s.copy_in, s.device, s.copy_out) for s in stages], np.float64)
    return StageTimes(*map(float, np.median(table, axis=0))) if len(table) else None
