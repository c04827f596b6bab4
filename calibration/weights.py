"""Weights in 8 bits: symmetric, a scale an output channel."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def quantise_weight(
    values: Floats, axis: int, *, half_scales: bool = False, least: Floats | None = None, clip: str = "max"
) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 weights, a scale a channel: ``round(w / scale)`` with ``scale = max|w| / 127``.

    Args:
        values: float32 of any shape.
        axis: the dimension of the channels.
        half_scales: round scales up to what float16 holds.
        least: float32 [channels]: the smallest scales to use.
        clip: "max", or "mse": the range with the least squared error, where that is below max|w|.

    Returns:
        int8 of the same shape, and float32 [channels]. A channel of zeros has scale 1.
    """
    others = tuple(index for index in range(values.ndim) if index != axis)
    scales = np.maximum(values.max(axis=others), -values.min(axis=others)).astype(np.float32) / np.float32(127)
    if least is not None:
        scales = np.maximum(scales, least)
    scales[scales <= 0] = 1.0
    if half_scales:
        scales = half_up(scales)
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    scaled = values / scales.reshape(shape)
    return np.rint(scaled, out=scaled).clip(-127, 127).astype(np.int8), scales


def half_up(values: Floats) -> Floats:
    """The smallest float16 that isn't below each of ``values`` (positive), as float32; saturated at 65504."""
    clipped = np.minimum(values, np.float32(65504))
    rounded = clipped.astype(np.float16)
    low = rounded.astype(np.float32) < clipped
    rounded[low] = np.nextafter(rounded[low], np.float16(np.inf))
    return rounded.astype(np.float32)
