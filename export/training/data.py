"""Where a training's pictures come from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from engines.errors import InputError
from engines.preprocess import Preprocess
from export.evaluation import Batch
from export.recipe import Recipe


@dataclass(frozen=True)
class TrainingData:
    """Where batches come from: pixels uint8 [N, height, width, channels] and labels int64 [N].

    Several processes (:mod:`export.training.distributed`) have data each, which give its share of every batch:
    of the ``batch_size`` images, or what is left for the last batch, those of ``group.share``. Both splits are shared
    out, while the sizes are those of the whole.

    Attributes:
        train: (epoch counted from 0, the epoch's own generator) -> its batches, shuffled with the generator,
            in the size of :func:`frame_of`.
        test: -> the batches of the test split, in order, in the network's input size.
        train_size: images an epoch.
        test_size: images in the test split.
        test_frames: the batches of the test split in the size of :func:`ten_crop_frame`; needed by ``ten_crop`` only.
    """

    train: Callable[[int, np.random.Generator], Iterable[Batch]]
    test: Callable[[], Iterable[Batch]]
    train_size: int
    test_size: int
    test_frames: Callable[[], Iterable[Batch]] | None = None


def frame_of(preprocess: Preprocess, recipe: Recipe) -> Preprocess:
    """What training pictures are decoded to: ``preprocess`` itself, or the frame that crops are cut from.

    Raises:
        InputError: the frame is no larger than the crops.
    """
    return ten_crop_frame(preprocess) if recipe.crop else preprocess


def ten_crop_frame(preprocess: Preprocess) -> Preprocess:
    """The frame around the centre crop: the paper's 256x256 for 224x224 with a crop fraction of 0.875.

    Shorter side scaled to the frame's, centre kept; "stretch" still stretches, to the frame.

    Raises:
        InputError: the frame is no larger than the crops.
    """
    height, width = (round(side / preprocess.crop_fraction) for side in (preprocess.height, preprocess.width))
    if (height, width) == (preprocess.height, preprocess.width):
        raise InputError(
            f"there is nothing to crop: pictures are scaled to {height}x{width}, which is all the network sees",
            "give a smaller --crop-fraction, or --no-crop and --no-ten-crop",
        )
    return replace(preprocess, height=height, width=width, crop_fraction=1.0)
