"""A data set as what a training loop asks for: batches of pixels, shuffled anew every epoch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.preprocess import Preprocess
from export.recipe import Recipe
from toolkit.data import Dataset
from toolkit.training.cache import BUDGET, Pictures

if TYPE_CHECKING:
    from export.training import TrainingData
    from export.training.distributed import Group

TEST_BATCH = 64
"""Test images a step; it doesn't shape the result."""


def training_data(
    dataset: Dataset,
    preprocess: Preprocess,
    recipe: Recipe,
    *,
    group: "Group | None" = None,
    budget: int = BUDGET,
) -> "TrainingData":
    """The data set as batches, each process of a group being given its share of every batch.

    Args:
        dataset: its train split is shuffled each epoch with the epoch's generator, its test split stays in order.
        preprocess: how the network sees pictures.
        recipe: batch size, and the frame that crops are cut out of.
        group: the processes that train together. Every process draws the same order and has the same number of
            batches; a last batch with fewer images than processes is left out.
        budget: bytes of decoded pictures to keep; the training images come first.

    Raises:
        InputError: a batch is too small for a share each.
    """
    from export.training import TrainingData, frame_of, ten_crop_frame
    from export.training.distributed import ALONE

    group = group or ALONE
    if recipe.batch_size < group.world:
        raise InputError(
            f"batches of {recipe.batch_size} images have no share for each of {group.world} processes",
            f"give --batch-size {group.world} or more",
        )
    budget //= group.world
    train = Pictures(dataset.train, frame_of(preprocess, recipe), budget=budget)
    test = Pictures(dataset.test, preprocess, budget=budget - train.bytes)

    def epoch(_: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        order = rng.permutation(len(dataset.train)).astype(np.int64)
        return train.batches([part[group.share(len(part))] for part in _parts(order, recipe.batch_size, group.world)])

    own = _parts(np.arange(len(dataset.test), dtype=np.int64)[group.share(len(dataset.test))], TEST_BATCH, 1)
    frames = None
    if recipe.ten_crop:  # once, at the end: nothing is kept
        frames = Pictures(dataset.test, ten_crop_frame(preprocess), budget=0)
    return TrainingData(
        train=epoch,
        test=lambda: test.batches(own),
        train_size=len(dataset.train),
        test_size=len(dataset.test),
        test_frames=None if frames is None else lambda: frames.batches(own),
    )


def _parts(order: NDArray[np.int64], size: int, least: int) -> list[NDArray[np.int64]]:
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [part for part in parts if len(part) >= least]
