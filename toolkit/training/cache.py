"""Decoded pictures that are kept, so that only the first epoch decodes."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.preprocess import Preprocess
from toolkit.data import Split
from toolkit.data.batches import decoding_threads
from toolkit.runtime.decode import decode

BUDGET = 1 << 30
"""Bytes of decoded pictures that a training keeps when nothing else is said."""


class Pictures:
    """The pictures of a split at one size, by index; decoded once where all of them fit the budget.

    A picture that was kept is bit for bit the one that decoding again would give. For one thread at a time.

    Args:
        split: where they come from.
        preprocess: size and channels.
        budget: bytes that may be kept; the split is kept whole or not at all.
        threads: how many decode at once; None takes one a core.
    """

    def __init__(
        self, split: Split, preprocess: Preprocess, *, budget: int = BUDGET, threads: int | None = None
    ) -> None:
        self.split, self.preprocess, self.threads = split, preprocess, threads or decoding_threads()
        shape = (len(split), preprocess.height, preprocess.width, preprocess.channels)
        self.bytes = int(np.prod(shape)) if np.prod(shape, dtype=np.float64) <= budget else 0
        """What is kept when every picture was seen; 0 where they don't fit."""
        # The system gives memory when it is written to: pages of pictures that nobody asks for cost nothing.
        self._kept = np.empty(shape if self.bytes else (0,), np.uint8)
        self._known = np.zeros(len(split), np.bool_)

    def batches(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Pixels uint8 [N, height, width, channels] and labels int64 [N] of each batch of indices.

        Two batches are decoded ahead.

        Raises:
            DataError: a picture can't be decoded; the message names it.
        """
        largest = max(map(len, batches), default=1)
        known = self._known.copy()  # decoding runs ahead of what is stored below: both go by what was known before
        missing = (int(index) for batch in batches for index in batch if not known[index])
        decoded = decode(
            (self.split.image(index) for index in missing),
            self.preprocess,
            threads=self.threads,
            ahead=2 * max(largest, self.threads),
        )
        with closing(decoded):
            for batch in batches:
                yield self._through(batch, known, decoded), self.split.labels[batch]

    def _through(
        self, batch: NDArray[np.int64], known: NDArray[np.bool_], decoded: Iterator[NDArray[np.uint8] | DataError]
    ) -> NDArray[np.uint8]:
        size = self.preprocess
        pixels = np.empty((len(batch), size.height, size.width, size.channels), np.uint8)
        for place, index in enumerate(batch):
            if known[index]:
                pixels[place] = self._kept[index]
                continue
            picture = next(decoded)
            if isinstance(picture, DataError):
                raise picture
            pixels[place] = picture
            if self.bytes:
                self._kept[index] = picture
                self._known[index] = True
        return pixels
