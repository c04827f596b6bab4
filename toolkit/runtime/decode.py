"""Images decoded in threads: in order, a bounded number at a time, a damaged one answered as its error."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.preprocess import ImageLike, Preprocess

Decoded = NDArray[np.uint8] | DataError


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

    def one(image: ImageLike) -> Decoded:
        try:
            return preprocess.pixels(image)
        except DataError as error:
            return error

    if threads <= 1:
        yield from map(one, images)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="toolkit-decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for image in images:
            waiting.append(pool.submit(one, image))
            if len(waiting) >= max(ahead, threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
