"""Copies arrays into page-locked memory piece by piece, so that the way to the device begins with the first piece."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from engines.tensors import Array

PIECE = 2 << 20
"""Bytes: what one core copies in a fraction of a millisecond, and far more than a transfer's fixed cost is worth."""

WORKERS = 4
"""Threads that copy, at most: one core reaches less than half of what the bus takes, four reach it."""


class Copier:
    """Copies small arrays in the caller's thread, large ones in several, which are started when first needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def copy(self, target: Array, source: Array) -> Iterator[tuple[int, int]]:
        """Copy ``source`` into ``target``, converting byte order and gaps.

        Yields:
            First byte and number of bytes in ``target`` of every piece, in order, as soon as it is there.
        """
        count = len(target) if target.ndim else 1
        row = target.nbytes // count
        step = max(PIECE // max(row, 1), 1)
        if count <= step:
            np.copyto(target, source)
            yield 0, target.nbytes
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), "staging")
        parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        pool = self._pool
        under_way = [pool.submit(np.copyto, target[part], source[part]) for part in parts]
        try:
            for part, copied in zip(parts, under_way, strict=True):
                copied.result()
                yield part.start * row, (part.stop - part.start) * row
        finally:
            # Whatever became of the one who asked: nothing may write into the memory any more.
            wait(under_way)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
