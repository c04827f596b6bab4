"""What a batcher counts, and the picture of it that callers get."""

from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

BOUNDS = (
    *(1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2),
    *(5e-2, 1e-1, 2.5e-1, 5e-1, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets of times, in seconds: three a decade, from what a batcher costs to what callers give up
at. What is longer lies in one bucket more."""


class Times:
    """A histogram of durations; one thread adds."""

    __slots__ = ("buckets", "count", "largest", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.count, self.seconds, self.largest = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.count += 1
        self.seconds += seconds
        self.largest = max(self.largest, seconds)


class WorkerCounts:
    """What one worker has done; only who runs its session writes here."""

    def __init__(self) -> None:
        self.batches: dict[int, int] = {}
        self.waiting, self.staging, self.running = Times(), Times(), Times()
        self.failures = self.retries = self.restarts = 0
        self.alive = True

    def ran(self, size: int, staging: float) -> None:
        """Count a batch of this many samples, and the seconds that staging it took."""
        self.batches[size] = self.batches.get(size, 0) + 1
        self.staging.add(staging)


@dataclass
class RequestCounts:
    """Requests by what became of them; written under the queue's lock.

    Attributes:
        accepted: taken into the queue.
        answered: with a result.
        failed: with the error of a session, or because the batcher closed.
        cancelled: by their callers before they ran.
        expired: not answered by their deadline.
        refused: not taken, because the queue was full.
        invalid: not taken, because of their type or shape.
    """

    accepted: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    invalid: int = 0


@dataclass(frozen=True)
class TimeStats:
    """Durations of one stage.

    Attributes:
        count: how many.
        seconds: their sum.
        largest: the longest, in seconds.
        buckets: how many lie in each bucket; bucket i reaches from ``BOUNDS[i - 1]`` to ``BOUNDS[i]``, and the last
            from the last bound up.
    """

    count: int
    seconds: float
    largest: float
    buckets: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Seconds on average; 0 where nothing was counted."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class BatcherStats:
    """What a batcher has done so far, and what is in it now.

    Attributes:
        depth: samples that wait.
        limit: samples that may wait.
        requests: requests by what became of them: "accepted", "answered", "failed", "cancelled", "expired",
            "refused", "invalid".
        batches: how many batches of each size were run.
        waiting: from submitting a request until its batch was formed, a request.
        staging: copying a batch into its session's memory.
        running: a batch in its session, copies to and from a device included.
        failures: batches that a session failed.
        retries: requests that were run again after that.
        restarts: sessions that died and were replaced.
        sessions: sessions at work.
    """

    depth: int
    limit: int
    requests: dict[str, int]
    batches: dict[int, int]
    waiting: TimeStats
    staging: TimeStats
    running: TimeStats
    failures: int
    retries: int
    restarts: int
    sessions: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON takes it, with the bounds of the buckets in seconds."""
        return {
            **asdict(self),
            "batches": {str(size): count for size, count in self.batches.items()},
            "bounds": list(BOUNDS),
        }


def gather(depth: int, limit: int, requests: RequestCounts, workers: list[WorkerCounts]) -> BatcherStats:
    """Sum up; workers may be at work, so the sums may be a batch apart."""
    batches: dict[int, int] = {}
    for worker in workers:
        for size, count in list(worker.batches.items()):
            batches[size] = batches.get(size, 0) + count
    return BatcherStats(
        depth,
        limit,
        asdict(requests),
        dict(sorted(batches.items())),
        _sum([worker.waiting for worker in workers]),
        _sum([worker.staging for worker in workers]),
        _sum([worker.running for worker in workers]),
        sum(worker.failures for worker in workers),
        sum(worker.retries for worker in workers),
        sum(worker.restarts for worker in workers),
        sum(worker.alive for worker in workers),
    )


def _sum(times: list[Times]) -> TimeStats:
    return TimeStats(
        sum(one.count for one in times),
        sum(one.seconds for one in times),
        max((one.largest for one in times), default=0.0),
        tuple(map(sum, zip(*(one.buckets for one in times), strict=True))),
    )
