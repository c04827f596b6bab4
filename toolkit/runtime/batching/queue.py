"""The bounded queue between callers and sessions: who is refused, and when a batch is due."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from operator import methodcaller
from time import monotonic
from typing import TYPE_CHECKING

from engines.errors import Overloaded, RunError, ToolkitError
from toolkit.runtime.batching.answer import ANSWERED, RUNNING, WAITING, Answer, Result, tell
from toolkit.runtime.batching.outcomes import Outcomes
from toolkit.runtime.batching.seat import Seat

if TYPE_CHECKING:
    from toolkit.runtime.batching.answer import Listener
    from toolkit.runtime.batching.ride import Ride

CLOSED = ("the batcher is closed", "make another")


class RequestQueue(Outcomes):
    """Requests that wait, and the workers that wait for requests.

    Args:
        limit: samples that may wait.
        max_batch: samples in a batch.
        max_delay: seconds that a request waits for company where its session is busy with an earlier batch.
        workers: how many take from here.
    """

    def __init__(self, limit: int, max_batch: int, max_delay: float, workers: int) -> None:
        self.max_batch, self.max_delay = max_batch, max_delay
        super().__init__(limit)
        self._idle: deque[Seat] = deque()
        # One step for an interrupt, that comes between two: a worker that was taken off the idle ones but not woken
        # would sleep for ever.
        self._wakings = map(methodcaller("ring"), iter(self._idle.popleft, None))
        self._company, self._gatherers = threading.Condition(self.lock), 0
        self._workers, self._closed = workers, False
        self._refusal: tuple[str, str] | None = None

    def put(self, answer: Answer) -> None:
        """Take a request in.

        Raises:
            Overloaded: it doesn't fit any more. A request always fits an empty queue.
            RunError: the batcher is closed, or has no session left.
            InputError: its priority is no whole number.
        """
        with self.lock:
            before = self._lanes.depth
            if self._refusal is None and (before + answer.count <= self.limit or not before):
                self._lanes.add(answer)
                self.counts.accepted += 1
                self._ring(before)
                return
            refusal = self._refusal
            if refusal is None:
                self.counts.refused += 1
        if refusal is not None:
            raise RunError(*refusal)
        raise Overloaded(
            f"{before} samples wait already, of {self.limit} that may",
            "try again later, or give the batcher more sessions or a longer queue",
        )

    def put_or_carry(self, answer: Answer) -> None:
        """Take a request in, for a caller who waits for it; who finds a session idle runs it right here.

        Its answer is there then, or will be: what goes wrong with the session is seen to by the session's worker.

        Raises:
            ToolkitError: as :meth:`put`.
        """
        try:
            if not self._sit_down(answer):
                self.put(answer)
                return
            seat = answer.seat
            assert isinstance(seat, Seat) and seat.carry is not None  # noqa: S101, PT018 - it is, having sat down
            result, ride = seat.carry(answer)
            self._rise(seat, answer, result, ride)
        except BaseException as error:
            seat = answer.seat
            if not isinstance(seat, Seat):
                raise
            seat.left, seat.caller = (answer, error), None
            answer.seat = None
            seat.ring()
            if not isinstance(error, Exception):
                raise

    def take(self, seat: Seat, *, wait: bool = True) -> list[Answer]:
        """A batch of whatever waits, for a session that is idle.

        Args:
            seat: its worker's. While that waits here, callers may have it.
            wait: for a request to come; then the batch is empty only when the queue is closed and drained, or a
                caller left something behind.
        """
        while True:
            with self.lock:
                if seat.left is not None:
                    return []
                idle = not self._lanes.depth
                if not idle:
                    batch, told = self._form()
                elif wait and not self._closed:
                    self._idle.append(seat)
                else:
                    return []
            if idle:
                seat.rest()
                continue
            tell(told)
            if batch:
                return batch

    def gather(self, until: float) -> list[Answer]:
        """A batch for a session that is busy: once it is full, or the oldest request has waited for max_delay.

        Args:
            until: when the session is expected to be idle, by ``time.monotonic``: then this gives an empty one.
        """
        with self.lock:
            while True:
                oldest, now = self._lanes.oldest(), monotonic()
                if oldest is None:
                    left = until - now
                elif self._lanes.depth >= self.max_batch or self._closed:
                    break
                else:
                    due = oldest + self.max_delay - now
                    if due <= 0:
                        break
                    left = min(until - now, due)
                if left <= 0 or self._closed:
                    return []
                self._gatherers += 1
                self._company.wait(left)
                self._gatherers -= 1
            batch, told = self._form()
        tell(told)
        return batch

    def gather_full(self, idle: Callable[[], bool]) -> list[Answer]:
        """A full batch for a session that is busy, on the host; an empty one once it is idle.

        Args:
            idle: tells whether it is; :meth:`wake` is called when that changes.
        """
        with self.lock:
            while self._lanes.depth < self.max_batch:
                if self._closed or idle():
                    return []
                self._gatherers += 1
                self._company.wait()
                self._gatherers -= 1
            batch, told = self._form()
        tell(told)
        return batch

    def wake(self) -> None:
        """Have those who gather look again."""
        with self.lock:
            self._company.notify_all()

    def retry_or_fail(self, batch: Sequence[Answer], error: ToolkitError, retries: int) -> int:
        """Put the requests of a failed batch first in the queue again, or answer them with the error.

        They are run one by one then, so that one that fails its session fails alone.

        Returns:
            How many are run again.
        """
        told: list[Listener] = []
        again = 0
        with self.lock:
            for answer in reversed(batch):
                if answer.state != RUNNING:
                    continue
                answer.attempts += 1
                if answer.attempts > retries or not self._workers:
                    told += self._fail(answer, error)
                    continue
                answer.state = WAITING
                before = self._lanes.depth
                self._lanes.add_first(answer)
                self._ring(before)
                again += 1
        tell(told)
        return again

    def close(self) -> None:
        """Take no more requests; workers take what is left, and then find it empty."""
        with self.lock:
            self._closed = True
            self._refusal = self._refusal or CLOSED
            while self._idle:
                next(self._wakings)
            self._company.notify_all()

    def retire(self, error: ToolkitError) -> None:
        """One worker less; the last one leaves nobody waiting, and closes the queue with its reason."""
        with self.lock:
            self._workers -= 1
            last = not self._workers
            if last and not self._closed:
                self._refusal = (error.cause, error.remedy)
        if last:
            self.drop(error)

    def _sit_down(self, answer: Answer) -> bool:
        """Have the session that is next, for a request before which none waits; False where no session is idle."""
        with self.lock:
            if (
                not self._idle
                or self._lanes.depth
                or self._refusal is not None
                or not isinstance(answer.priority, int)
            ):
                return False
            # The one that a worker would run it on, whether callers may or not.
            seat = self._idle[0]
            if seat.carry is None:
                return False
            caller = threading.get_ident()
            self.counts.accepted += 1
            answer.state = RUNNING
            seat.caller, answer.seat = caller, seat
            self._idle.popleft()
        return True

    def _rise(self, seat: Seat, answer: Answer, result: Result, ride: "Ride") -> None:
        """Answer the request that was carried, and leave its session to those who came meanwhile."""
        with self.lock:
            # Nobody else knows of it: no deadline can have passed, and no one is to be told.
            self.counts.answered += 1
            answer.ride = ride
            answer.settle(ANSWERED, result)
            busy = self._lanes.depth or self._closed
            seat.caller = answer.seat = None
            if busy:
                seat.ring()
            else:
                self._idle.append(seat)

    def _form(self) -> "tuple[list[Answer], list[Listener]]":
        """The next batch, and who is to be told that a request's time is up."""
        batch, late = self._lanes.form(self.max_batch, monotonic())
        return batch, [listener for answer in late for listener in self._expire(answer)] if late else []

    def _ring(self, before: int) -> None:
        """Wake a worker for a request that has come: an idle one, else those who wait for company when it matters."""
        if self._idle:
            next(self._wakings)
        elif self._gatherers and (not before or self._lanes.depth >= self.max_batch):
            self._company.notify_all()
