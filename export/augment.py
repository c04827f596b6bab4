"""Augmentation: what a training image may look like besides what it is."""

import numpy as np
from numpy.typing import NDArray


def shifts(count: int, size: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """How far images are moved: a random whole number of pixels, each way equally likely.

    Args:
        count: of the images.
        size: their height and width.
        share: the farthest one moves, as a share of height and of width.
        rng: draws the offsets.

    Returns:
        int64 [count, 2], (down, right) in pixels; None where nothing can move.
    """
    reach = np.array([int(side * share) for side in size])
    return rng.integers(-reach, reach + 1, (count, 2)) if reach.any() else None


def moved(pixels: NDArray[np.uint8], offsets: NDArray[np.int64] | None) -> NDArray[np.uint8]:
    """Images moved by what :func:`shifts` drew, their edges repeated.

    Args:
        pixels: uint8 [N, height, width, channels].
        offsets: one a row, or None.

    Returns:
        A new array like ``pixels``; ``pixels`` itself without offsets.
    """
    if offsets is None:
        return pixels
    _, height, width, _ = pixels.shape
    result = np.empty_like(pixels)
    for image, target, (down, right) in zip(pixels, result, offsets, strict=True):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        target[:] = image[rows][:, columns]
    return result


def cropped(
    pixels: NDArray[np.uint8],
    corners: NDArray[np.int64] | None,
    size: tuple[int, int],
    flips: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """Cut a window out of every image, and mirror some.

    Args:
        pixels: uint8 [N, height, width, channels].
        corners: top and left of each window, [N, 2]; None takes the whole image.
        size: of the windows, (height, width).
        flips: which are mirrored left to right, [N]; None mirrors none.

    Returns:
        uint8 [N, *size, channels]: a new array; ``pixels`` itself where there is nothing to do.
    """
    if corners is None and flips is None:
        return pixels
    count, channels = len(pixels), pixels.shape[3]
    height, width = size
    result = np.empty((count, height, width, channels), np.uint8)
    for at, image in enumerate(pixels):
        top, left = (0, 0) if corners is None else corners[at]
        window = image[top : top + height, left : left + width]
        if flips is not None and flips[at]:
            for channel in range(channels):  # thrice as fast as mirroring pixels of three bytes
                result[at, :, :, channel] = window[:, ::-1, channel]
        else:
            result[at] = window
    return result


def ten_crops(frames: NDArray[np.uint8], height: int, width: int) -> list[NDArray[np.uint8]]:
    """The four corners and the centre of every image, and their mirror images (Krizhevsky et al. 2012, section 4.1).

    Args:
        frames: uint8 [N, larger height, larger width, channels].
        height, width: of the crops.

    Returns:
        Ten views, uint8 [N, height, width, channels] each.
    """
    down, right = frames.shape[1] - height, frames.shape[2] - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    views = [frames[:, top : top + height, left : left + width] for top, left in corners]
    return views + [view[:, :, ::-1] for view in views]
