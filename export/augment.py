"""Augmentation: what a training image may look like besides what it is."""

import numpy as np
from numpy.typing import NDArray


def shifted(pixels: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Move every image by a random whole number of pixels, each way equally likely; its edge is repeated.

    Args:
        pixels: uint8 [N, height, width, channels].
        share: the farthest it moves, as a share of height and of width.
        rng: draws the offsets.

    Returns:
        A new array like ``pixels``; ``pixels`` itself where nothing moves.
    """
    count, height, width, _ = pixels.shape
    reach = np.array([int(height * share), int(width * share)])
    if not reach.any():
        return pixels
    moved = np.empty_like(pixels)
    offsets = rng.integers(-reach, reach + 1, (count, 2))
    for image, target, (down, right) in zip(pixels, moved, offsets, strict=True):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        target[:] = image[rows][:, columns]
    return moved
