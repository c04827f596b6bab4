"""Whose turn it is at a session: its worker's, or that of a caller who runs his own request."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.runtime.batching.answer import Answer, Result
    from toolkit.runtime.batching.ride import Ride

    Carry = Callable[[Answer], tuple[Result, Ride]]


class Seat:
    """The right to run one session, which has one holder at a time: its worker, or a caller while that is idle.

    Waking the worker and being woken by it takes a caller longer than many a run. It waits anyhow, so it may sit
    down itself, run its one request, and rise again. What goes wrong meanwhile is left to the worker.

    Seats change hands under the lock of the queue. An interrupt may come after any call, so the steps that change
    hands end with the one call that does it.

    Args:
        carry: runs one request, for a caller who has the seat; None where callers may not.

    Attributes:
        ring: wakes the worker, once, after :meth:`rest` or while it is about to; it has the seat then.
        caller: the number of the thread that has the seat; None when that is the worker, or nobody.
        left: a request that a caller sat down with and didn't bring to its end, and what came in between.
    """

    __slots__ = ("caller", "carry", "left", "rest", "ring")

    def __init__(self, carry: "Carry | None") -> None:
        bell = threading.Lock()
        bell.acquire()
        self.carry = carry
        self.rest: Callable[[], object] = bell.acquire
        self.ring = bell.release
        self.caller: int | None = None
        self.left: tuple[Answer, BaseException] | None = None
