"""Count the tensors of one batch in several threads, and know at any moment what has been counted in full."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from calibration.feeds import Batch, arrays_of
from calibration.histogram import GrowingHistogram, pieces
from calibration.parallel import cores
from calibration.partial import Partial
from engines.errors import ToolkitError

_MOST_THREADS = 8
"""More don't help: a fifth of the counting is done by one thread at a time."""


class _Done(NamedTuple):
    """What is counted: so many images, and so many notes that are theirs."""

    images: int
    notes: int


class Counter:
    """Histograms of a graph's tensors, filled a batch at a time; a context, to be left when all is counted.

    Args:
        names: of the tensors.
        partial: what was counted before, and where to save. It is saved when the context is left by an exception.
        threads: how many count; all cores unless given.

    Attributes:
        histograms: by tensor; whole while no batch is being counted.

    Raises:
        InputError: ``partial`` is of other tensors.
    """

    def __init__(self, names: Mapping[str, Any], partial: Partial | None, threads: int | None = None) -> None:
        self._partial = partial
        self._done = _Done(partial.images, len(partial.notes)) if partial else _Done(0, 0)
        self.histograms = partial.histograms(names) if partial else {name: GrowingHistogram() for name in names}
        self._next: _Done | None = None  # what is counted when the batch in progress is
        self._futures: list[Future[None]] | None = None  # while a batch is in progress, None until all of it is begun
        self._pool = ThreadPoolExecutor(min(threads or cores(), _MOST_THREADS), "counting")

    @property
    def images(self) -> int:
        """How many images are counted in full."""
        return self._done.images

    def start(self, values: Mapping[str, NDArray[Any]], batch: Batch) -> None:
        """Begin to count a batch; on return ``batch`` itself is needed no more.

        Args:
            values: what the tensors hold, by name; they may share the batch's memory.
            batch: the samples.
        """
        self._futures = None
        self._next = _Done(self._done.images + len(batch), len(self._partial.notes) if self._partial else 0)
        shared = []
        # Large pieces first, so that the threads end together.
        jobs = [(name, piece) for name, array in values.items() for piece in pieces(array)]
        order = {name: place for place, name in enumerate(values)}
        futures = []
        for name, piece in sorted(jobs, key=lambda job: -job[1].size):
            future = self._pool.submit(self.histograms[name].add, piece, name)
            futures.append((order[name], future))
            if any(np.may_share_memory(piece, array) for array in arrays_of(batch)):
                shared.append(future)
        # The first tensor of the graph is the one that an error names.
        self._futures = [future for _, future in sorted(futures, key=lambda item: item[0])]
        wait(shared)

    def finish(self) -> int:
        """Wait until the batch is counted; how many images it had.

        Raises:
            GraphError: one of its tensors holds NaN or infinity; the histograms are worth nothing any more.
        """
        if self._next is None or self._futures is None:
            return 0
        wait(self._futures)
        for future in self._futures:
            future.result()
        added = self._next.images - self._done.images
        # In this order an interruption between two lines loses nothing: finishing again gives the same.
        self._done = self._next
        self._next = self._futures = None
        return added

    def save(self) -> None:
        """Save what is counted, if there is where, and something."""
        if self._partial is not None and self._next is None and self._done.images:
            self._partial.save(self.histograms, *self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                with contextlib.suppress(ToolkitError):  # what ended it is what the caller is told
                    self.finish()
                    self.save()
        finally:
            self._pool.shutdown()
