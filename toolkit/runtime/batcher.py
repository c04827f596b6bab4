"""Many callers in, full batches to one or more sessions, each answer back to its asker."""

import math
import weakref
from collections.abc import Iterable, Mapping
from threading import Thread, current_thread, get_ident
from time import monotonic
from types import TracebackType
from typing import Self

from engines.errors import DeadlineExceeded, InputError, RunError
from engines.sessions.base import Session
from engines.sessions.slots import DEFAULT_CAPACITY
from engines.tensors import Array
from toolkit.runtime.batching.answer import Answer, Result
from toolkit.runtime.batching.keeper import Keeper, Restart
from toolkit.runtime.batching.layout import layout_of
from toolkit.runtime.batching.queue import RequestQueue
from toolkit.runtime.batching.stats import BatcherStats, gather
from toolkit.runtime.batching.worker import Worker, start

Request = Array | Mapping[str, Array]
"""An array for an engine with one input, or an array for each input: one sample without the batch axis, or several
with it. They are read until the request is answered, and must not change before."""


class Batcher:
    """Answers requests of many threads and event loops with full batches.

    A session that is idle runs at once whatever waits; while it runs, the next batch gathers. On a GPU the next batch
    is staged, while one computes, once it is full or its oldest request has waited for ``max_delay``; on the host
    once it is full, if batches take megabytes. They are copied straight from the requests into the sessions' memory.

    A session that fails a batch fails no other: its requests are run once more, one by one, so that one that is at
    fault fails alone. Then it is tried with a sample of zeros; if it fails that as well it has died, and ``restart``
    replaces it. Without ``restart`` the other sessions go on; when the last one has died, everyone who waits or comes
    is told why.

    ::

        with toolkit.Batcher(predictor.session, max_batch=32) as batcher:
            future = batcher.submit(sample)        # from any thread
            outputs = await batcher.infer(sample)  # in an event loop
            outputs = batcher.run(sample)          # and wait

    Args:
        sessions: one or several of the same engine, on one device or more. They, and their slots, are the batcher's
            alone until it is closed; it doesn't close them, except for one that died.
        max_batch: samples in a batch at most; None for the sessions' largest, or 32 where nothing bounds it.
        max_delay: seconds that a request waits for company while its session is busy with an earlier batch; an idle
            one never waits. Of no effect on the host, where a batch that isn't full gains nothing by being early.
        queue: samples that may wait, beside those that run. Who comes when it is full is refused at once.
        restart: gives a session in place of one that died, which it is given, closed. The batcher closes the new one.
        retries: how often a request is run again after a session failed it.
        slots: batches in a session at once; None for two where copying one and computing another overlap: on a
            device, and on the host where a batch takes megabytes.

    Raises:
        InputError: a number makes no sense, or the sessions aren't of one engine.
        UnsupportedError: the engine's inputs or outputs have no batch, or vary in more than that.
        RunError: a session is closed, or its slots are in use already.
    """

    def __init__(
        self,
        sessions: Session | Iterable[Session],
        max_batch: int | None = None,
        max_delay: float = 0.002,
        queue: int = 1024,
        *,
        restart: Restart | None = None,
        retries: int = 1,
        slots: int | None = None,
    ) -> None:
        several = list(sessions) if isinstance(sessions, Iterable) else [sessions]
        layouts = [layout_of(session) for session in several]
        if not several or any(layout != layouts[0][0] for layout, _ in layouts):
            raise InputError(
                "the sessions have different inputs or outputs" if several else "there is no session",
                "give one or more sessions of the same engine",
            )
        whole = max_batch is None or (isinstance(max_batch, int) and max_batch >= 1)
        if not whole or queue < 1 or slots == 0 or retries < 0 or not 0 <= max_delay < math.inf:
            raise InputError(
                f"max_batch={max_batch}, max_delay={max_delay}, queue={queue} and retries={retries} make no sense",
                "give a batch and a queue of 1 or more, and a delay and retries of 0 or more",
            )
        limits = [fixed or session.info.max_batch for session, (_, fixed) in zip(several, layouts, strict=True)]
        bounds = [limit for limit in limits if limit is not None]
        fixed_batches = [fixed for _, fixed in layouts if fixed is not None]
        if max_batch is None:
            max_batch = min(bounds, default=DEFAULT_CAPACITY)
        # A fixed batch that is larger than wanted is filled up with zeros, one that is smaller can't be stretched.
        self.max_batch = min([max_batch, *fixed_batches])
        self._layout = layouts[0][0]
        self._queue = RequestQueue(queue, self.max_batch, max_delay, len(several))
        keepers = [
            Keeper(session, layout, fixed, self.max_batch, slots=slots, restart=restart, told=self._queue.wake)
            for session, (layout, fixed) in zip(several, layouts, strict=True)
        ]
        self._workers = [Worker(self._queue, self._layout, keeper, retries) for keeper in keepers]
        self._threads = [start(worker, number) for number, worker in enumerate(self._workers)]
        # Threads hold the queue, not this: one that is dropped unclosed, or left open at exit, ends them too.
        self._end = weakref.finalize(self, _abandon, self._queue, self._threads)

    def submit(self, request: Request, *, timeout: float | None = None, priority: int = 0) -> Answer:
        """Ask, without waiting.

        Args:
            request: see :data:`Request`. One of several samples is run in one batch, and has at most ``max_batch``.
            timeout: seconds after which an answer is of no use: a request that hasn't begun to run by then never
                does, and who waits for it then gets ``DeadlineExceeded``; None for never.
            priority: higher ones go before lower ones that wait, however long these have.

        Returns:
            A future: ``result(timeout)``, ``exception(timeout)``, ``done()``, ``cancel()``,
            ``add_done_callback(function)``, and ``await``. The result is what ``Session.run`` gives for these
            samples: arrays by output, without the batch axis if the request came without it.

        Raises:
            InputError: the request doesn't fit the engine; nobody else notices.
            Overloaded: the queue is full.
            DeadlineExceeded: the timeout isn't positive.
            RunError: the batcher is closed, or no session is left.
        """
        answer = self._ask(request, timeout, priority)
        self._queue.put(answer)
        return answer

    async def infer(self, request: Request, *, timeout: float | None = None, priority: int = 0) -> Result:
        """Ask and wait in an event loop; see :meth:`submit`. Cancelling the task takes the request back."""
        return await self.submit(request, timeout=timeout, priority=priority)

    def run(self, request: Request, *, timeout: float | None = None, priority: int = 0) -> Result:
        """Ask and wait in a thread; see :meth:`submit`.

        A session on the host that is idle is run right here, which takes less than having its own thread do it; but
        not for a request with a timeout, whose caller must be told when that is up.
        """
        answer = self._ask(request, timeout, priority)
        if timeout is None:
            self._queue.put_or_carry(answer)
        else:
            self._queue.put(answer)
        try:
            return answer.result()
        except BaseException:
            # An interrupt, say: nobody waits for it any more.
            answer.cancel()
            raise

    def stats(self) -> BatcherStats:
        """What it has done so far, and how much waits."""
        queue = self._queue
        with queue.lock:
            return gather(queue.depth, queue.limit, queue.counts, [worker.counts for worker in self._workers])

    def close(self, timeout: float | None = None) -> None:
        """Refuse new requests, answer those that wait, and end the threads; safe to call twice, and from anywhere.

        Args:
            timeout: seconds for which waiting requests are still run; the others are answered with a RunError. None
                for as long as it takes. What runs by then is waited for.
        """
        self._queue.close()
        until = None if timeout is None else monotonic() + timeout
        if current_thread() in self._threads or any(worker.seat.caller == get_ident() for worker in self._workers):
            # A callback of an answer closes it, or a signal's handler in a caller that runs a session: the thread
            # can't wait for itself, and drains later.
            self._end.detach()
            return
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - monotonic()))
        self._end()

    def _ask(self, request: Request, timeout: float | None, priority: int) -> Answer:
        queue = self._queue
        try:
            arrays, count, single = self._layout.accept(request, self.max_batch)
        except InputError:
            queue.invalid()
            raise
        if timeout is not None and not timeout > 0:
            raise DeadlineExceeded(f"a timeout of {timeout} s is over before it begins", "give more than 0 seconds")
        return Answer(queue, arrays, count, single, priority, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        # Draining must not hold up the loop, in which those may wait that are to be answered.
        await asyncio.to_thread(self.close)


def _abandon(queue: RequestQueue, threads: list[Thread]) -> None:
    """End what runs for a batcher that was closed (then nothing is left to do), dropped, or left open at exit."""
    if queue.lock.acquire(blocking=False):
        queue.lock.release()
        _finish(queue, threads)
    else:
        # The garbage collector may have come here in the middle of this very thread's turn at the lock.
        Thread(target=_finish, args=(queue, threads), name="batcher-end", daemon=True).start()


def _finish(queue: RequestQueue, threads: list[Thread]) -> None:
    queue.close()
    queue.drop(RunError("the batcher was closed before this request ran", "send it again"))
    for thread in threads:
        if thread is not current_thread():
            thread.join()
