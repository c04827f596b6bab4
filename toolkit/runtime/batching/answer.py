"""The future that a request gets: for threads, for asyncio and for callbacks, without a lock of its own."""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from engines.errors import DeadlineExceeded
from engines.tensors import Array

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from toolkit.runtime.batching.ride import Ride

    Listener = tuple[AbstractEventLoop, Future[None]] | Callable[[], object]

WAITING, RUNNING, ANSWERED, FAILED, CANCELLED = range(5)
"""What a request can be. From ANSWERED on nothing changes any more."""

Result = dict[str, Array]


class Queue(Protocol):
    """What a request needs of the queue that it is in."""

    lock: threading.Lock

    def cancel(self, answer: "Answer") -> bool:
        """Take a request out again."""

    def expire(self, answer: "Answer") -> None:
        """Answer a request whose time is up."""


class Answer:
    """A request, and the answer to it once there is one.

    It offers what :class:`concurrent.futures.Future` does to those who wait, and may be awaited. All that changes
    is changed under the one lock of its queue, a whole batch at a time.

    Attributes:
        arrays: the request's array of each input, in the engine's order; let go of when it is answered.
        count: samples in it.
        single: whether it came, and is answered, without the batch axis.
        priority: higher goes first.
        deadline: when it is of no use any more, by ``time.monotonic``; None for never.
        arrived: when it was made, by ``time.monotonic``.
        attempts: batches that failed it.
        ride: the batch that gave it its result; None as long as it has none.
        seat: the :class:`toolkit.runtime.batching.seat.Seat` that its caller has; None while a worker sees to it.
        state: see ``WAITING``.
    """

    __slots__ = (
        "_listeners", "_outcome", "_queue", "arrays", "arrived", "attempts", "count", "deadline", "priority",
        "ride", "seat", "single", "state",
    )  # fmt: skip

    def __init__(
        self,
        queue: Queue,
        arrays: tuple[Array, ...],
        count: int,
        single: bool,
        priority: int,
        timeout: float | None,
    ) -> None:
        self._queue = queue
        self.arrays: tuple[Array, ...] | None = arrays
        self.count = count
        self.single = single
        self.priority = priority
        self.arrived = now = monotonic()
        self.deadline = None if timeout is None else now + timeout
        self.attempts = 0
        self.ride: Ride | None = None
        self.seat: object = None
        self.state = WAITING
        self._listeners: list[Listener] | None = None
        self._outcome: Result | BaseException | None = None

    def done(self) -> bool:
        """Whether there is a result or an error, or it was cancelled."""
        return self.state >= ANSWERED

    def running(self) -> bool:
        """Whether a session has it."""
        return self.state == RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.state == CANCELLED

    def cancel(self) -> bool:
        """Take the request back; False when it runs or is answered already."""
        return self._queue.cancel(self)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the answer.

        Args:
            timeout: seconds to wait at most, which changes nothing about the request; None for as long as it takes.

        Returns:
            The outputs by name, the caller's own: without the batch axis if the request came without it.

        Raises:
            RunError: the session failed, or the batcher was closed.
            DeadlineExceeded: the request's own time is up.
            TimeoutError: ``timeout`` is.
            concurrent.futures.CancelledError: it was cancelled.
        """
        if self.state < ANSWERED:
            self._wait(timeout)
        return self._give(CancelledError)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as :meth:`result` does, and give the error; None when there is a result."""
        if self.state < ANSWERED:
            self._wait(timeout)
        if self.state == CANCELLED:
            raise CancelledError
        return self._outcome if isinstance(self._outcome, BaseException) else None

    def add_done_callback(self, function: "Callable[[Answer], object]") -> None:
        """Call ``function`` with this once it is done, in whichever thread ends it; at once if it is.

        It should be quick: the next batch waits for it. What it raises is logged.
        """

        def call() -> object:
            return function(self)

        if not self._listen(call):
            _call(call)

    def __await__(self) -> Generator[Any, None, Result]:
        """Wait in an event loop; cancelling the task that does takes the request back if it can."""
        import asyncio

        if self.state < ANSWERED:
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            if self._listen((loop, waiter)):
                timer = None
                if self.deadline is not None:
                    timer = loop.call_later(self.deadline - monotonic(), self._queue.expire, self)
                try:
                    yield from waiter
                except asyncio.CancelledError:
                    self.cancel()
                    raise
                finally:
                    if timer is not None:
                        timer.cancel()
        return self._give(asyncio.CancelledError)

    def settle(self, state: int, outcome: Result | BaseException | None) -> "list[Listener] | None":
        """Answer it, under the queue's lock; gives who has to be told, after the lock is released."""
        self._outcome = outcome
        if state == ANSWERED or self.state != RUNNING:
            # One whose time is up while it runs is still being copied, with the others of its batch.
            self.arrays = None
        self.state = state
        listeners, self._listeners = self._listeners, None
        return listeners

    def _listen(self, listener: "Listener") -> bool:
        """Be told when it is done; False when it is already."""
        with self._queue.lock:
            if self.state >= ANSWERED:
                return False
            if self._listeners is None:
                self._listeners = [listener]
            else:
                self._listeners.append(listener)
            return True

    def _wait(self, timeout: float | None) -> None:
        bell = threading.Lock()
        bell.acquire()
        ring = bell.release
        if not self._listen(ring):
            return
        deadline = self.deadline
        patience = None if timeout is None else max(0.0, timeout)
        left = None if deadline is None else max(0.0, deadline - monotonic())
        if left is not None and (patience is None or left <= patience):
            if not bell.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                self._queue.expire(self)
            return
        if bell.acquire(timeout=-1 if patience is None else min(patience, threading.TIMEOUT_MAX)):
            return
        with self._queue.lock:
            if self.state >= ANSWERED:
                return
            if self._listeners is not None:
                self._listeners.remove(ring)
        raise TimeoutError(f"no answer after {timeout} s: the request goes on")

    def _give(self, cancelled: type[BaseException]) -> Result:
        if self.state == CANCELLED:
            raise cancelled
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None  # noqa: S101 - done means one of the three
        return outcome


def too_late(answer: Answer) -> DeadlineExceeded:
    """The error for a request whose time is up."""
    waited = 1e3 * (monotonic() - answer.arrived)
    state = "was running" if answer.state == RUNNING else "had not begun to run"
    return DeadlineExceeded(
        f"after {waited:.1f} ms the request's time was up, and it {state}",
        "give it more time, or the batcher more sessions",
    )


def tell(all_listeners: "Iterable[Listener]") -> None:
    """Wake everyone who waits: threads first, then each event loop once, then callbacks."""
    loops: dict[AbstractEventLoop, list[Future[None]]] = {}
    callbacks = []
    for listener in all_listeners:
        if isinstance(listener, tuple):
            loops.setdefault(listener[0], []).append(listener[1])
        elif isinstance(listener, _BOUND):
            listener()
        else:
            callbacks.append(listener)
    for loop, waiters in loops.items():
        try:
            loop.call_soon_threadsafe(_wake, waiters)
        except RuntimeError:
            continue  # the loop is closed, and nobody waits in it any more
    for callback in callbacks:
        _call(callback)


_BOUND = type(threading.Lock().release)


def _wake(waiters: "list[Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except BaseException:  # in a session's thread, which must not end for it
        import logging

        logging.getLogger(__name__).exception("a callback of an answer failed")
