"""Real samples to verify a graph on: the user's, or for pictures two photographs that scikit-learn brings."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from engines.errors import MissingLibraryError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.preprocess import Preprocess
from engines.progress import QUIET, Progress
from engines.tensors import Array


@dataclass(frozen=True, eq=False)
class RealSamples:
    """What :func:`export.verify.verify` takes of real samples.

    Attributes:
        images: uint8 [N, height, width, channels]; None for a network that takes tensors, or where there are none.
        tensors: by input, [N, ...] each; None for one that takes pictures, or where there are none.
    """

    images: NDArray[np.uint8] | None = None
    tensors: Mapping[str, Array] | None = None


def real_samples(
    data: str | PathLike[str] | None,
    metadata: ModelMetadata,
    count: int,
    *,
    seed: int = 0,
    progress: Progress = QUIET,
) -> RealSamples:
    """Samples for whatever a network takes: of tensors those of an ``.npz``, none without ``data``.

    The arguments and errors are those of :func:`real_pictures`.
    """
    if metadata.pictures is not None:
        return RealSamples(images=real_pictures(data, metadata.preprocess, count, seed=seed, progress=progress))
    if data is None:
        return RealSamples()
    from toolkit.data.tensors import choose_samples, open_tensors

    split = open_tensors(data, metadata).test
    return RealSamples(tensors=split.subset(choose_samples(split, count, seed)).arrays)


def real_pictures(
    data: str | PathLike[str] | None, preprocess: Preprocess, count: int, *, seed: int = 0, progress: Progress = QUIET
) -> NDArray[np.uint8] | None:
    """Pictures of the model's size.

    Args:
        data: what ``toolkit.data.open_dataset`` takes; its test split is used. None takes crops of the
            photographs in scikit-learn.
        preprocess: of the model.
        count: how many at most.
        seed: of the choice.
        progress: told of the check of an image folder.

    Returns:
        uint8 [N, height, width, channels]; None without ``data`` where scikit-learn or Pillow is missing.

    Raises:
        DataError: ``data`` can't be used.
    """
    if data is not None:
        from toolkit.data import choose, open_dataset, pixel_batches

        split = open_dataset(data, progress=progress).test
        batches = pixel_batches(split, preprocess, count, indices=choose(split, count, seed))
        return next(iter(batches))[0]
    try:
        photographs = _photographs()
    except MissingLibraryError:
        return None
    rng = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        height, width = photograph.shape[:2]
        side = int(rng.integers(height // 3, height))
        top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
        crops.append(preprocess.pixels(np.ascontiguousarray(photograph[top : top + side, left : left + side])))
    return np.stack(crops)


def _photographs() -> list[NDArray[np.uint8]]:
    require("PIL", "Reading photographs", "data")
    datasets = require("sklearn.datasets", "Reading photographs", "data")
    return [np.asarray(datasets.load_sample_image(name), np.uint8) for name in ("china.jpg", "flower.jpg")]
