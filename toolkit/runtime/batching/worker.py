"""One session's thread: takes batches, stages them into the session's slots, runs them, answers, sees to failures."""

import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic

from engines.errors import RunError, ToolkitError
from engines.sessions.base import Slot
from toolkit.runtime.batching.answer import Answer, Result
from toolkit.runtime.batching.aside import AsideSlot
from toolkit.runtime.batching.keeper import Keeper
from toolkit.runtime.batching.layout import Layout
from toolkit.runtime.batching.queue import RequestQueue
from toolkit.runtime.batching.ride import Ride
from toolkit.runtime.batching.seat import Seat
from toolkit.runtime.batching.staging import Stager
from toolkit.runtime.batching.stats import WorkerCounts

CAUTION = 0.8
"""The part of a batch's expected time for which its worker waits for company for the next one. What is left is for
times that vary, and for staging: a session shouldn't be idle, nor an answer lie there, while its worker waits."""

FEW = 4
"""A batch on the host of at most so small a part of a full one is run by the worker itself, and answered at once.
While it runs, the next won't fill up, so nothing is gained by another thread, whose waking costs part of so short a
run; and so few callers, who are woken, don't keep the interpreter from staging the next."""


@dataclass
class Run:
    """A batch that is under way.

    Attributes:
        slot: where.
        batch: its requests.
        size: samples that are run, with those that only fill a fixed batch.
        began: when it was formed, by ``time.monotonic``.
        started: when it was staged, likewise.
    """

    slot: Slot
    batch: list[Answer]
    size: int
    began: float
    started: float


class Worker:
    """Runs batches of the queue on one session, in one thread; where slots overlap, with the next batch staged.

    Args:
        queue: where batches come from.
        layout: of the samples.
        keeper: of the session.
        retries: how often a request whose batch failed is run again.

    Attributes:
        seat: the right to run the session, which callers may have while it is idle.
        counts: what was done here.
    """

    def __init__(self, queue: RequestQueue, layout: Layout, keeper: Keeper, retries: int) -> None:
        self._queue, self._layout, self._keeper, self._retries = queue, layout, keeper, retries
        self._stager = Stager(layout)
        self._few = queue.max_batch // FEW
        self._free = list(keeper.slots)
        self._under_way: deque[Run] = deque()
        self._results: deque[tuple[list[Answer], list[Result], Ride]] = deque()
        self._at_hand: list[Answer] = []
        self._ended = 0.0
        self._expected: dict[int, float] = {}
        self.counts = WorkerCounts()
        self.seat = Seat(self._carry if keeper.lendable else None)

    def work(self) -> None:
        """Run batches until the queue is closed and drained, or the session has died and isn't replaced."""
        over: ToolkitError = RunError("the batcher is closed", "make another")
        try:
            self._work()
        except BaseException as error:
            over = error if isinstance(error, ToolkitError) else _wrapped(error)
            self._answer()
            for batch in (self._at_hand, *(run.batch for run in self._under_way)):
                self._queue.retry_or_fail(batch, over, 0)
        finally:
            self.counts.alive = False
            self._queue.retire(over)
            self._stager.close()
            self._keeper.close()

    def _work(self) -> None:
        queue = self._queue
        while True:
            # While results are held back, nothing is waited for.
            held = bool(self._results)
            batch: list[Answer] = []
            if not self._under_way:
                batch = queue.take(self.seat, wait=not held)
                if self.seat.left is not None:
                    self._take_over(*self.seat.left)
                    continue
                if not batch and not held:
                    return
            elif self._free:
                batch = self._gather(held)
            if batch:
                self._launch(batch)
                if self._free and self._under_way and not self._under_way[0].slot.done():
                    continue
            elif held:
                self._answer()
                continue
            if self._under_way:
                self._collect()

    def _carry(self, answer: Answer) -> tuple[Result, Ride]:
        """Run one request, in the thread of its caller, who has the seat; the worker's own state is left alone."""
        counts, slot, batch = self.counts, self._keeper.own, [answer]
        size = self._keeper.fixed or answer.count
        began = monotonic()
        counts.waiting.add(began - answer.arrived)
        self._stager.fill(slot.inputs(size), batch)
        staged = monotonic()
        slot.start()
        outputs = slot.wait()
        ended = monotonic()
        (result,) = self._layout.share(outputs, batch, size)
        counts.ran(answer.count, staged - began)
        counts.running.add(ended - staged)
        return result, Ride(began, staged, ended, answer.count, self._keeper.device)

    def _take_over(self, answer: Answer, error: BaseException) -> None:
        """See to what a caller left behind: a session that failed, or one where its caller was interrupted."""
        self._at_hand = [answer]
        self.seat.left = None
        if isinstance(error, Exception):
            self._failed([answer], error)
            return
        # Wherever it was: nothing may write into the memory any more, or be under way.
        self._stager.close()
        self._keeper.reclaim()
        self._queue.retry_or_fail([answer], _wrapped(error), 0)

    def _gather(self, held: bool) -> list[Answer]:
        """The next batch for a session that is busy; empty when it is better to see to what is under way."""
        slot = self._under_way[0].slot
        if isinstance(slot, AsideSlot):
            return self._queue.gather_full((lambda: True) if held else slot.done)
        return self._queue.gather(0.0 if held else self._idle_at())

    def _launch(self, batch: list[Answer]) -> None:
        """Stage a batch and put it under way; on the host it runs right here.

        The callers of the batch before are answered when this one is staged, or on its way to a device: they wake up
        all together, and while they wanted the interpreter the session would have nothing to do.
        """
        self._at_hand = batch
        counts, slot = self.counts, self._free.pop()
        began = monotonic()
        for answer in batch:
            counts.waiting.add(began - answer.arrived)
        total = sum(answer.count for answer in batch)
        size = self._keeper.fixed or total
        near = slot if isinstance(slot, AsideSlot) and size <= self._few and not self._under_way else None
        try:
            self._stager.fill(slot.inputs(size), batch)
            if near is not None or not self._keeper.beside:
                self._answer()
            started = monotonic()
            if near is not None:
                near.start_here()
            else:
                slot.start()
            self._answer()
        except Exception as error:
            self._free.append(slot)
            self._failed(batch, error)
            return
        counts.ran(total, started - began)
        self._under_way.append(Run(slot, batch, size, began, started))

    def _collect(self) -> None:
        """Wait for the oldest batch that is under way, and hold its results for :meth:`_answer`."""
        run = self._under_way.popleft()
        self._at_hand = run.batch
        try:
            late = run.slot.done()
            outputs = run.slot.wait()
            ended = monotonic()
            self._measure(run, ended, late)
            results = self._layout.share(outputs, run.batch, run.size)
        except Exception as error:
            self._free.append(run.slot)
            self._failed(run.batch, error)
            return
        self._free.append(run.slot)
        total = sum(answer.count for answer in run.batch)
        self._results.append((run.batch, results, Ride(run.began, run.started, ended, total, self._keeper.device)))
        if total <= self._few and self._keeper.device == "cpu":
            self._answer()

    def _answer(self) -> None:
        """Give everyone the results that are held."""
        while self._results:
            self._queue.answer(*self._results.popleft())

    def _measure(self, run: Run, ended: float, late: bool) -> None:
        """Learn how long such a batch takes, from when the one before it was through."""
        seconds = ended - max(run.started, self._ended)
        self._ended = ended
        self.counts.running.add(seconds)
        # A batch that was through before anyone looked took less than this: the next look is to come earlier.
        self._expected[run.size] = min(seconds, CAUTION * self._expected.get(run.size, 0.0)) if late else seconds

    def _idle_at(self) -> float:
        """When the oldest batch under way is expected to be through; at once for a size that isn't known yet."""
        run = self._under_way[0]
        return max(run.started, self._ended) + CAUTION * self._expected.get(run.size, 0.0)

    def _failed(self, batch: list[Answer], error: Exception) -> None:
        """See to a batch that its session failed, and to the session.

        Raises:
            ToolkitError: the session has died and isn't replaced.
        """
        cause = error if isinstance(error, ToolkitError) else _wrapped(error)
        self._answer()
        self.counts.failures += 1
        self.counts.retries += self._queue.retry_or_fail(batch, cause, self._retries)
        # They are anybody's now: another session may be running them already, whatever becomes of this one.
        self._at_hand = []
        while self._under_way:
            self._collect()
            self._answer()
        if not self._keeper.lives(self._free[-1]):
            self._keeper.replace(cause)
            self._free = list(self._keeper.slots)
            self.counts.restarts += 1


def start(worker: Worker, number: int) -> threading.Thread:
    """A thread for a worker.

    It doesn't keep the interpreter from ending: whoever made the batcher ends it, at the latest when the
    interpreter exits.
    """
    thread = threading.Thread(target=worker.work, name=f"batcher-{number}", daemon=True)
    thread.start()
    return thread


def _wrapped(error: BaseException) -> RunError:
    wrapped = RunError(
        f"the session failed: {type(error).__name__}: {error}", "see the error that this one came from"
    )
    wrapped.__cause__ = error
    return wrapped
