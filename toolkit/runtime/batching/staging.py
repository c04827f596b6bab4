"""Batches copied from their requests into a session's own memory, large ones by several threads."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from engines.sessions.staging import PIECE, WORKERS
from engines.tensors import Array
from toolkit.runtime.batching.answer import Answer
from toolkit.runtime.batching.layout import Layout, Sample


class Stager:
    """Fills the input memory of one session; its threads are started when a batch is first large enough.

    Args:
        layout: of the samples.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._threads = min(WORKERS, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None

    def fill(self, views: Mapping[str, Array], batch: Sequence[Answer]) -> None:
        """Copy a batch's samples to the beginning of each view, and zeros into the rest of it.

        Args:
            views: a session's memory by input, [size, ...].
            batch: requests with ``size`` samples or fewer.
        """
        total = sum(answer.count for answer in batch)
        for at, sample in enumerate(self._layout.samples):
            view = views[sample.name]
            whole = view[:total]
            # As many threads as there are pieces that are worth one.
            threads = min(self._threads, whole.nbytes // PIECE, total)
            parts = _parts(batch, at, sample, single=threads > 1)
            if threads > 1:
                self._share_out(whole, parts, threads)
            else:
                _copy(whole, parts)
            if total < len(view):
                view[total:] = 0

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _share_out(self, whole: Array, parts: list[Array], threads: int) -> None:
        """Copy with several threads, this one among them; there is a part for each sample."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "batcher-staging")
        pool, count = self._pool, len(parts)
        cuts = [slice(count * one // threads, count * (one + 1) // threads) for one in range(threads)]
        under_way = [pool.submit(_copy, whole[cut], parts[cut]) for cut in cuts[1:]]
        try:
            _copy(whole[cuts[0]], parts[cuts[0]])
        finally:
            # Whatever became of it: nothing may write into the memory any more.
            wait(under_way)
        for one in under_way:
            one.result()


def _parts(batch: Sequence[Answer], at: int, sample: Sample, *, single: bool) -> list[Array]:
    """What lies end to end in the batch along a sample's first axis: whole requests, or ``single`` samples."""
    rest, parts = sample.shape[1:], []
    for answer in batch:
        assert answer.arrays is not None  # noqa: S101 - it runs, so it isn't answered
        array = answer.arrays[at]
        if answer.count == 1 and sample.shape:
            parts.append(array)
        elif array.flags.c_contiguous and not single:
            parts.append(array.reshape(-1, *rest))
        elif sample.shape:
            parts.extend(array)
        else:
            parts.extend(array.reshape(-1, 1))
    return parts


def _copy(target: Array, parts: list[Array]) -> None:
    """Lay arrays end to end along their first axis into ``target``, [samples, ...], with one call."""
    np.concatenate(parts, out=target.reshape(-1, *target.shape[2:]))
