"""The principal axes of a data set's colours, along which training images are shifted.

Krizhevsky et al. 2012, section 4.1: "we perform PCA on the set of RGB pixel values throughout the [...] training
set. To each training image, we add multiples of the found principal components". The paper gives the multiples as
``alpha * eigenvalue``, ``alpha`` from N(0, 0.1); the authors' code (cuda-convnet2) takes the standard deviation along
the axis, the eigenvalue's root, and so does this: a variance of pixels would depend on the unit they are
counted in, and in 0..255 shift them by thousands. The axes are those of the data at hand: of the pixels, as the
training decodes them, of up to :data:`IMAGES` training images drawn with the seed. They are computed once,
before the first epoch, and kept with the training's state.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import DataError
from engines.progress import QUIET, Progress
from export.recipe import Recipe
from export.training.data import TrainingData
from export.training.distributed import ALONE, Group, total

IMAGES = 10_000
"""So many images tell a data set's colours; more would cost an epoch's decoding and change nothing."""


def colour_axes(
    data: TrainingData,
    channels: int,
    recipe: Recipe,
    *,
    group: Group = ALONE,
    device: torch.device | str = "cpu",
    progress: Progress = QUIET,
) -> NDArray[np.float64]:
    """The principal axes of the training images' colours, each as long as the standard deviation along it.

    Streams in fixed memory. Sums of integers are exact in float64 here, so that neither the order of the images nor
    the number of processes changes a bit.

    Args:
        data: gives the images, shuffled by a generator of its own.
        channels: of the images.
        recipe: gives the seed and the size of a batch.
        group: processes, each of which has its share of every batch.
        device: where their sums meet.
        progress: told of every batch.

    Returns:
        float64 [channels, channels], an axis a column, in pixel units (0..255), least first.

    Raises:
        DataError: there are no images.
    """
    rng = np.random.default_rng((recipe.seed, 0, 1))  # no epoch has this one: those have (seed, epoch)
    progress.begin("learning the colours", min(IMAGES, data.train_size), "images")
    sums = np.zeros(1 + channels + channels**2)
    try:
        for step, (pixels, _) in enumerate(data.train(0, rng), 1):
            for image in pixels:
                flat = image.reshape(-1, channels).astype(np.float64)
                sums += np.concatenate([[len(flat)], flat.sum(0), (flat.T @ flat).ravel()])
            progress.advance(len(pixels) * group.world)
            if step * recipe.batch_size >= IMAGES:
                break
    finally:
        progress.end()
    sums = total(torch.from_numpy(sums).to(device), group).cpu().numpy()
    if not sums[0]:
        raise DataError("there are no images to learn the colours from", "give a data set with training images")
    mean = sums[1 : 1 + channels] / sums[0]
    covariance = sums[1 + channels :].reshape(channels, channels) / sums[0] - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    # An axis has no direction; that its largest entry is positive makes it the same on every machine.
    largest = vectors[np.abs(vectors).argmax(0), np.arange(channels)]
    return np.asarray(vectors * np.sign(largest) * np.sqrt(np.maximum(values, 0)))
