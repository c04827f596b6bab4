"""What becomes of requests: answers, errors, cancelling, deadlines; everything of that under one lock."""

import copy
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engines.errors import ToolkitError
from toolkit.runtime.batching.answer import (
    ANSWERED,
    CANCELLED,
    FAILED,
    RUNNING,
    WAITING,
    Answer,
    Result,
    tell,
    too_late,
)
from toolkit.runtime.batching.lanes import Lanes
from toolkit.runtime.batching.stats import RequestCounts

if TYPE_CHECKING:
    from toolkit.runtime.batching.answer import Listener
    from toolkit.runtime.batching.ride import Ride


class Outcomes:
    """Requests that wait, and what becomes of them.

    Everything is changed under one lock, which nobody holds for longer than forming or answering a batch takes;
    nobody is told anything, and nothing runs, while it is held.

    Args:
        limit: samples that may wait.

    Attributes:
        lock: held to change anything here or in a request.
        counts: requests by what became of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.counts = RequestCounts()
        self._lanes = Lanes(limit)

    @property
    def depth(self) -> int:
        """Samples that wait."""
        return self._lanes.depth

    def answer(self, batch: Sequence[Answer], results: Iterable[Result], ride: "Ride") -> None:
        """Give each request of a batch its result, and all of them the ride that they had together."""
        told: list[Listener] = []
        answered = 0
        with self.lock:
            for answer, result in zip(batch, results, strict=True):
                if answer.state == RUNNING:
                    answered += 1
                    answer.ride = ride
                    if listeners := answer.settle(ANSWERED, result):
                        told += listeners
            self.counts.answered += answered
        tell(told)

    def cancel(self, answer: Answer) -> bool:
        """Take a request out again; False when it runs or is answered already."""
        with self.lock:
            if answer.state != WAITING:
                return answer.state == CANCELLED
            self.counts.cancelled += 1
            self._lanes.leave(answer)
            told = answer.settle(CANCELLED, None) or ()
        tell(told)
        return True

    def expire(self, answer: Answer) -> None:
        """Answer a request whose time is up, whether it waits or runs."""
        with self.lock:
            if answer.state >= ANSWERED:
                return
            if answer.state == WAITING:
                self._lanes.leave(answer)
            told = self._expire(answer)
        tell(told)

    def invalid(self) -> None:
        """Count a request that was not even taken in."""
        with self.lock:
            self.counts.invalid += 1

    def drop(self, error: ToolkitError) -> None:
        """Answer everything that waits with an error."""
        with self.lock:
            told = [listener for answer in self._lanes.clear() for listener in self._fail(answer, error)]
        tell(told)

    def _fail(self, answer: Answer, error: ToolkitError) -> "Sequence[Listener]":
        self.counts.failed += 1
        # An error of its own for each: raising one in several threads would mix up their tracebacks.
        own = copy.copy(error)
        own.__cause__ = error.__cause__ or error
        return answer.settle(FAILED, own) or ()

    def _expire(self, answer: Answer) -> "Sequence[Listener]":
        self.counts.expired += 1
        return answer.settle(FAILED, too_late(answer)) or ()
