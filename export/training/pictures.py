"""The batches of an epoch, augmented.

Everything random is drawn for the whole batch, in the order of the batches, and each process keeps its share: what
an image becomes doesn't depend on how many processes there are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.preprocess import Preprocess
from export.augment import cropped, moved, shifts
from export.recipe import Recipe
from export.training.data import TrainingData
from export.training.distributed import Group

Augmented = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def batch_sizes(data: TrainingData, recipe: Recipe) -> Iterator[int]:
    """How many images the batches of an epoch have, over all processes."""
    for start in range(0, data.train_size, recipe.batch_size):
        yield min(recipe.batch_size, data.train_size - start)


def smallest_share(count: int, group: Group) -> int:
    """How many images the process with the fewest of ``count`` has."""
    parts = [Group(rank, group.world).share(count) for rank in range(group.world)]
    return min(int(part.stop - part.start) for part in parts)


def augmented(
    data: TrainingData,
    preprocess: Preprocess,
    recipe: Recipe,
    epoch: int,
    rng: np.random.Generator,
    axes: NDArray[np.float64] | None,
    group: Group,
) -> Iterator[Augmented]:
    """The epoch's batches as the network is to see them.

    Args:
        data: gives the pictures.
        preprocess: the network's, whose size crops have.
        recipe: what is done to them.
        epoch: counted from 0.
        rng: the epoch's.
        axes: the colours' principal axes, where colours are shifted.
        group: gives this process's share.

    Yields:
        pixels uint8 [n, height, width, channels]; labels int64 [n]; what is added to all pixels of each image,
        float32 [n, channels], or [n, 0]; the share of each image in its mixture, float32 [1], or [0].
    """
    sizes = batch_sizes(data, recipe)
    for pixels, labels in data.train(epoch, rng):
        count = len(labels) if group.world == 1 else next(sizes, 0)
        kept = group.share(count)
        if len(labels) != kept.stop - kept.start:
            raise DataError(
                f"a batch has {len(labels)} images for process {group.rank + 1}, not {kept.stop - kept.start}",
                "give each process its share of the batches of the recipe's size",
            )
        height, width = pixels.shape[1:3]
        if recipe.crop and (height < preprocess.height or width < preprocess.width):
            raise DataError(
                f"pictures of {height}x{width} are too small to cut {preprocess.height}x{preprocess.width} out of",
                "give training pictures in the size of export.training.frame_of",
            )
        offsets = shifts(count, (height, width), recipe.shift, rng)
        room = (height - preprocess.height + 1, width - preprocess.width + 1)
        corners = rng.integers(0, room, (count, 2)) if recipe.crop else None
        flips = rng.random(count) < 0.5 if recipe.flip else None
        colours = _colours(axes, recipe.pca_jitter, count, rng)
        share = np.atleast_1d(rng.beta(recipe.mixup, recipe.mixup)) if recipe.mixup else np.zeros(0)
        whole = moved(pixels, _part(offsets, kept))
        size = (preprocess.height, preprocess.width) if recipe.crop else (height, width)
        seen = cropped(whole, _part(corners, kept), size, _part(flips, kept))
        yield np.ascontiguousarray(seen), labels, colours[kept], share.astype(np.float32)


def _colours(
    axes: NDArray[np.float64] | None, jitter: float, count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    if axes is None:
        return np.zeros((count, 0), np.float32)
    return (rng.normal(0, jitter, (count, len(axes))) @ axes.T).astype(np.float32)


def _part(values: NDArray[Any] | None, kept: slice) -> NDArray[Any] | None:
    return None if values is None else values[kept]
