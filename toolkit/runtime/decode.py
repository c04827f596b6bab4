"""Images decoded in threads: in order, a bounded number at a time, a damaged one answered as its error.

JPEGs are decoded at their full size. Decoders can give them at a half or less much faster (Pillow's ``draft``), but
what they drop there is not what the resizing would have averaged: the pixels would differ from those that the model
was trained and calibrated on.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.preprocess import ImageLike, Preprocess

Decoded = NDArray[np.uint8] | DataError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def decode(
    images: Iterable[ImageLike], preprocess: Preprocess, *, threads: int = 2, ahead: int = 64
) -> Generator[Decoded, None, None]:
    """Decode and resize images while the caller works on earlier ones.

    Args:
        images: taken one by one as they are needed.
        preprocess: size and channels.
        threads: how many decode at once; 1 decodes in the caller's thread.
        ahead: how many images at most are decoded or being decoded and not yet handed out.

    Yields:
        uint8 [height, width, channels] for each image in turn, or the :class:`DataError` that names it.

    Raises:
        MissingLibraryError: Pillow is not installed.
    """
    return in_threads(preprocess.pixels, images, threads=threads, ahead=ahead)


def in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int, ahead: int
) -> Generator[_Result | DataError, None, None]:
    """Call a function for items in threads, while the caller works on earlier results.

    Args:
        function: what is called; a :class:`DataError` that it raises is its result.
        items: taken one by one as they are needed, in the caller's thread.
        threads: how many calls at once; 1 calls in the caller's thread.
        ahead: how many items at most are done or being done and not yet handed out.

    Yields:
        The results in the order of their items.
    """

    def one(item: _Item) -> _Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    if threads <= 1:
        yield from map(one, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="toolkit-decode")
    waiting: deque[Future[_Result | DataError]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) >= max(ahead, threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
