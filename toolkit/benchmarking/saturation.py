"""Batch sizes doubled until throughput stops growing."""

import time
from collections.abc import Mapping

import numpy as np

from toolkit.benchmarking.statistics import difference_interval
from toolkit.benchmarking.timing import CONFIDENCE, Interval, Timing

LEAST_GAIN = 0.03
"""Throughput that grows by less than this share, from one size to twice it, has stopped growing."""

LONGEST_RUN = 1.0
"""Seconds of a run beyond which no larger batch is tried: nobody waits that long for an answer."""

LONGEST_SWEEP = 90.0
"""Seconds after which one launch tries no larger batch."""

LARGEST = 4096


def gain(before: Timing, after: Timing) -> Interval:
    """How many times the throughput: of ``after``, at a larger batch, against ``before``; with its 95 % interval.

    The two were measured one after the other, so turns are not paired, and each is drawn by itself.
    """
    logs = [
        np.array([np.log(timing.batch / np.median(turn)) for turn in timing.blocks], np.float64)
        for timing in (before, after)
    ]
    value, low, high = difference_interval(logs[1], logs[0], CONFIDENCE)
    if low is None or high is None:
        return Interval(float(np.exp(value)))
    return Interval(*map(float, np.exp((value, low, high))))


class Sweep:
    """Decides about the next batch size from what was measured at the last.

    All rivals are measured at the same sizes, as long as the throughput of any of them grows.
    """

    def __init__(self) -> None:
        self._size: int | None = 1
        self._last: dict[str, Timing] = {}
        self._saturated: set[str] = set()
        self._unclear: set[str] = set()
        self._seen = False
        self._start = time.monotonic()

    @property
    def size(self) -> int | None:
        """The size to measure now; None when there is no more."""
        return self._size

    def measured(self, timings: Mapping[str, Timing], *, room: bool = True) -> None:
        """Go on to the next size.

        Args:
            timings: what was measured at this size, by rival; without those that don't take it, or failed at it.
            room: there is memory for twice the batch.
        """
        growing = False
        for name, timing in timings.items():
            before = self._last.get(name)
            if before is not None and name not in self._saturated:
                found = gain(before, timing)
                unclear = found.low is not None and found.contains(1.0)
                # On a busy machine one gain that drowns in noise is no reason to stop; two are.
                if found.value < 1 + LEAST_GAIN or (unclear and name in self._unclear):
                    self._saturated.add(name)
                if unclear:
                    self._unclear.add(name)
                else:
                    self._unclear.discard(name)
            if 2 * timing.p50 > LONGEST_RUN:
                self._saturated.add(name)
            growing |= name not in self._saturated
        self._last = dict(timings)
        self._seen |= bool(timings)
        size = self._size or LARGEST
        late = time.monotonic() - self._start > LONGEST_SWEEP
        # Profiles that start above a batch of one take no part at first.
        unseen = not self._seen
        self._size = 2 * size if (growing or unseen) and room and not late and size < LARGEST else None


def saturation(timings: Mapping[int, Timing]) -> int | None:
    """The smallest batch size whose throughput is within ``LEAST_GAIN`` of the best; None without any."""
    if not timings:
        return None
    best = max(timing.images_per_second for timing in timings.values())
    return min(size for size, timing in timings.items() if timing.images_per_second * (1 + LEAST_GAIN) >= best)
