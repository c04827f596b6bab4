"""Batches of preprocessed images, decoded in threads, in order and in bounded memory."""

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError
from engines.preprocess import Preprocess
from toolkit.data.dataset import Split
from toolkit.runtime.decode import in_threads

Labels = NDArray[np.int64]

MOST_THREADS = 16
"""Decoding threads; with more, what they do under the interpreter's lock holds them up."""


def pixel_batches(
    split: Split,
    preprocess: Preprocess,
    batch_size: int,
    *,
    indices: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    """Decode and resize images, batch by batch; the last batch may be smaller.

    Two batches are decoded ahead while the caller works, and no more is held besides the one handed out.

    Args:
        split: where the images come from.
        preprocess: size and channels.
        batch_size: images a batch.
        indices: which images, in which order; None gives all in theirs.
        threads: how many read and decode at once; 1 does it in the caller's thread, None takes one a core, at most
            :data:`MOST_THREADS`.

    Yields:
        (pixels uint8 [N, height, width, channels], labels int64 [N]).

    Raises:
        DataError: a picture can't be decoded; the message names it.
        InputError: ``batch_size`` or ``threads`` is not positive, or an index is outside the split.
    """
    threads = decoding_threads() if threads is None else threads
    if batch_size < 1 or threads < 1:
        raise InputError(f"batch size {batch_size} with {threads} threads", "both must be 1 or more")
    order = np.arange(len(split)) if indices is None else np.asarray(indices, np.int64)
    if len(order) and (order.min() < 0 or order.max() >= len(split)):
        raise InputError(
            f"indices {int(order.min())} to {int(order.max())} leave the split of {len(split)} images",
            "choose from it",
        )
    return _pixel_batches(split, preprocess, batch_size, order, threads)


def float_batches(
    split: Split,
    preprocess: Preprocess,
    batch_size: int,
    *,
    indices: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Iterator[tuple[NDArray[np.float32], Labels]]:
    """:func:`pixel_batches`, normalised: (float32 [N, channels, height, width], labels int64 [N])."""
    for pixels, labels in pixel_batches(split, preprocess, batch_size, indices=indices, threads=threads):
        yield preprocess.normalise(pixels), labels


def _pixel_batches(
    split: Split, preprocess: Preprocess, batch_size: int, order: NDArray[np.int64], threads: int
) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    def pixels_of(index: np.int64) -> NDArray[np.uint8]:
        return preprocess.pixels(split.image(int(index)))

    decoded = in_threads(pixels_of, order, threads=threads, ahead=2 * max(batch_size, threads))
    with closing(decoded):
        for start in range(0, len(order), batch_size):
            batch: list[NDArray[np.uint8]] = []
            for pixels in islice(decoded, batch_size):
                if isinstance(pixels, DataError):
                    raise pixels
                batch.append(pixels)
            yield np.stack(batch), split.labels[order[start : start + batch_size]]


def check_counts(images: int, batch_size: int, threads: int | None) -> None:
    """Refuse to measure on nothing.

    Raises:
        InputError: a number is less than 1.
    """
    if images < 1 or batch_size < 1 or (threads is not None and threads < 1):
        raise InputError(
            f"{images} images in batches of {batch_size} on {threads or 'all'} threads", "give 1 or more of each"
        )


def decoding_threads() -> int:
    """One a core that this process may use, at most :data:`MOST_THREADS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)
