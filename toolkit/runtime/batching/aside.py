"""Host sessions with large batches, run beside their worker: the next batch is copied while one computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from engines.sessions.base import Session, Slot
from engines.sessions.staging import PIECE
from engines.tensors import Array
from toolkit.runtime.batching.layout import Layout


class AsideSlot:
    """A slot of a session on the host that behaves like one on a device: ``start`` returns at once.

    Its session is run by one thread only; what the worker does meanwhile is fill the memory of another slot.

    Args:
        slot: the session's.
        runner: the thread that runs the session.
        told: called in that thread when a run has ended.

    Attributes:
        capacity: the largest batch.
    """

    def __init__(self, slot: Slot, runner: ThreadPoolExecutor, told: Callable[[], None]) -> None:
        self._slot, self._runner, self._told = slot, runner, told
        self.capacity = slot.capacity
        self._run: Future[None] | None = None

    def inputs(self, batch: int) -> dict[str, Array]:
        """See :class:`engines.sessions.base.Slot`."""
        return self._slot.inputs(batch)

    def start(self) -> None:
        """Have it run once the batches that were started before are through; what it raises, ``wait`` raises."""
        self._run = self._runner.submit(self._slot.start)
        self._run.add_done_callback(lambda _: self._told())

    def start_here(self) -> None:
        """Run it where this is called; for when nothing else is under way, nor expected to be staged meanwhile."""
        self._run = None
        self._slot.start()

    def done(self) -> bool:
        """Whether ``wait`` would return at once."""
        return self._slot.done() if self._run is None else self._run.done()

    def wait(self) -> dict[str, Array]:
        """See :class:`engines.sessions.base.Slot`."""
        if self._run is not None:
            self._run.result()
        return self._slot.wait()


def is_large(session: Session, layout: Layout, max_batch: int) -> bool:
    """Whether a session is on the host, and copying its batches takes long enough to be worth a thread."""
    nbytes = sum(sample.dtype.itemsize * int(np.prod(sample.shape)) for sample in layout.samples)
    return session.info.device == "cpu" and nbytes * max_batch >= 2 * PIECE


def aside(slots: Sequence[Slot], runner: ThreadPoolExecutor, told: Callable[[], None]) -> list[Slot]:
    """Each slot, run beside its worker."""
    return [AsideSlot(slot, runner, told) for slot in slots]
