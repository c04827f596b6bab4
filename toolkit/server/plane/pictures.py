"""Pictures decoded in threads: so many at once, so many waiting, and no more."""

import asyncio
import contextlib
import importlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from engines.errors import Overloaded
from engines.tensors import Array
from toolkit.runtime.head import Head

MOST_DECODERS = 8
"""Threads that decode where nothing was said: eight make about a thousand photographs a second."""

LARGE = 32_000_000
"""Pixels (width times height) from which pictures are decoded one at a time: each takes up to twelve bytes for every
pixel while it is, and half a megabyte of PNG may hold the most that is decoded at all."""


class Decoders:
    """Makes samples of pictures.

    Args:
        threads: pictures at once; None for as many as there are cores, up to :data:`MOST_DECODERS`.
        waiting: pictures that may wait for them.
    """

    def __init__(self, threads: int | None = None, waiting: int = 256) -> None:
        threads = threads or min(MOST_DECODERS, os.cpu_count() or 1)
        self._waiting = waiting
        self._places = threading.Semaphore(threads + waiting)
        self._large = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "toolkit-decode")
        self._pool.submit(_prepare)

    async def sample(self, head: Head, picture: bytes) -> Array:
        """One encoded picture as the engine takes it; cancelling lets go of one that waits.

        Raises:
            DataError: it is damaged, too large, or no picture.
            Overloaded: too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(
                f"{self._waiting} pictures wait to be decoded already", "try again later, or serve on more cores"
            )
        gone = threading.Event()

        def work() -> Array | None:
            # A place is free again when the thread was here, whatever became of the request: what waits in the
            # pool holds its picture until then.
            try:
                with self._large if _is_large(picture) else contextlib.nullcontext():
                    return None if gone.is_set() else head.sample(head.pixels(picture))
            finally:
                self._places.release()

        try:
            future = self._pool.submit(work)
        except BaseException:
            self._places.release()
            raise
        try:
            # Not to be cancelled itself: the pool would keep it, and its place would be nobody's.
            sample = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            gone.set()
            raise
        assert sample is not None  # noqa: S101 - nobody has gone
        return sample

    def close(self) -> None:
        """End the threads, each after what it is at and what waits."""
        self._pool.shutdown(wait=False)


def _is_large(picture: bytes) -> bool:
    """Whether the header of a picture says so. What has none is refused where it is decoded."""
    with contextlib.suppress(Exception), importlib.import_module("PIL.Image").open(io.BytesIO(picture)) as found:
        width, height = found.size
        return int(width) * int(height) > LARGE
    return False


def _prepare() -> None:
    """Load what the first picture would wait for; whether it is there shows when a picture comes."""
    with contextlib.suppress(ImportError):
        importlib.import_module("PIL.Image").preinit()
        importlib.import_module("PIL.ImageOps")
