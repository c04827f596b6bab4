"""Weights in 8 bits: symmetric, a scale an output channel, for the whole range or that of the least squared error.

What a narrower range can gain. A channel of ``n`` weights with range ``r`` has steps ``r / 127``, and rounding adds a
squared error of ``n · r² / (12 · 127²)``, as of uniform noise. Clipping at ``r`` below the largest weight ``m`` adds
``Σ (|w| - r)²`` over the weights beyond it, which is ``(m - r)²`` at least. So

- no range below ``m - √E`` can pay, where ``E`` is the squared error with the whole range: the search ends there;
- clipping saves at most the share ``n / (n + 12 · 127²)`` of the squared error, whatever the weights: 5 % for the
  9,216 weights a channel of AlexNet's first product, 0.2 % for a 3×3 convolution of 48 channels. In 8 bits, with a
  scale a channel, the whole range is nearly the best. (With rounding's luck a channel of few weights gains a little
  more: 1 or 2 % for some hundreds.)

Which channels are searched. For normally distributed weights of root mean square 1 the two errors together,
``r² / (12 · 127²) + 2 ∫ (x - r)² φ(x) dx`` from r, are least at r = 3.92, with the noise that r = 4.13 has without
clipping. From a ratio max/rms of 4.5 on, which one normal channel of 9,216 weights in sixteen reaches, the whole
range has a fifth more than that. Channels below it are left alone. (The same balance as in Banner et al. 2019,
"Post-training 4-bit quantization of convolution networks", ACIQ.)
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calibration.parallel import over_cores
from engines.errors import InputError

Floats = NDArray[np.float32]

LEVELS = 127
"""The largest magnitude that is used of int8: -128 isn't, so that the steps are symmetric."""

SEARCHED = 4.5
"""Channels whose max/rms is above this are searched for a narrower range."""

_CHUNK = 2**18
"""Weights that are worked on at a time: what they need stays in the cache, and memory is bounded."""

_GRID = 12
_ROUNDS = 2
_SMALLEST = 1e-3
"""The narrowest range tried, as a share of the whole one."""

_WORTH = 1e-3
"""The share of the squared error that a narrower range must save: less is rounding in the sums."""


def quantise_weight(
    values: Floats, axis: int, *, half_scales: bool = False, least: Floats | None = None, clip: str = "max"
) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 weights, a scale a channel: ``round(w / scale)``, saturated at ±127.

    Args:
        values: float32 of any shape.
        axis: the dimension of the channels.
        half_scales: use only scales that float16 holds exactly.
        least: float32 [channels]: the smallest scales to use.
        clip: "max": ``scale = max|w| / 127``; "mse": the one with the least squared error.

    Returns:
        int8 of the same shape, and float32 [channels]. A channel of zeros has scale 1.

    Raises:
        InputError: an unknown ``clip``.
    """
    scales = scales_for(values, axis, half_scales=half_scales, least=least, clip=clip)
    stored = np.empty(values.shape, np.int8)
    source, result = np.moveaxis(values, axis, 0), np.moveaxis(stored, axis, 0)
    shape = [-1] + [1] * (values.ndim - 1)

    def store(part: slice) -> None:
        scaled = source[part] / scales[part].reshape(shape)
        np.rint(scaled, out=scaled)
        result[part] = np.clip(scaled, -LEVELS, LEVELS, out=scaled)

    over_cores(store, parts(len(scales), values.size))
    return stored, scales


def scales_for(
    values: Floats,
    axis: int,
    *,
    levels: float = LEVELS,
    half_scales: bool = False,
    least: Floats | None = None,
    clip: str = "max",
) -> Floats:
    """The scale of each channel, apart from the rounding.

    Args:
        values: float32 of any shape.
        axis: the dimension of the channels.
        levels: the magnitude that the largest weight becomes: 127 in int8, 448 in FP8 (e4m3).
        half_scales: use only scales that float16 holds exactly: the next one above.
        least: float32 [channels]: the smallest scales to use.
        clip: "max", or "mse". The latter is for equal steps; the steps of FP8 grow with the value, so that the
            largest weight costs the others nothing, and "max" is right for it.

    Returns:
        float32 [channels]; 1 for a channel of zeros.

    Raises:
        InputError: an unknown ``clip``.
    """
    if clip not in {"max", "mse"}:
        raise InputError(f"no way to clip weights is called '{clip}'", "use 'max' or 'mse'")
    peaks = _peaks(values, axis)
    scales = _settle(peaks / np.float32(levels), least, half_scales=half_scales)
    if clip == "mse":
        source = np.moveaxis(values, axis, 0)
        for part in parts(len(scales), values.size):
            rows = source[part].reshape(len(scales[part]), -1)
            # In float64: in float32 the squares of large or tiny weights would not be finite, or be 0.
            energy = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            ratio = peaks[part].astype(np.float64) ** 2 * rows.shape[1] > SEARCHED**2 * energy
            found = np.flatnonzero(ratio) + part.start
            if found.size:
                floors = None if least is None else least[found]
                scales[found] = _narrowed(
                    rows[found - part.start], peaks[found], scales[found], floors, levels, half_scales=half_scales
                )
    return scales


def _peaks(values: Floats, axis: int) -> Floats:
    """The largest magnitude of each channel, float32 [channels]."""
    source = np.moveaxis(values, axis, 0)
    others = tuple(range(1, values.ndim))

    def largest(part: slice) -> Floats:
        found: Floats = np.maximum(source[part].max(axis=others), -source[part].min(axis=others)).astype(np.float32)
        return found

    return np.concatenate(over_cores(largest, parts(len(source), values.size)))


def half_up(values: Floats) -> Floats:
    """The smallest float16 that isn't below each of ``values`` (positive), as float32; saturated at 65504."""
    clipped = np.minimum(values, np.float32(65504))
    rounded = clipped.astype(np.float16)
    low = rounded.astype(np.float32) < clipped
    rounded[low] = np.nextafter(rounded[low], np.float16(np.inf))
    return rounded.astype(np.float32)


def _settle(scales: Floats, least: Floats | None, *, half_scales: bool) -> Floats:
    """The scales that may be used in place of these."""
    if least is not None:
        scales = np.maximum(scales, least)
    scales[scales <= 0] = 1.0
    return half_up(scales) if half_scales else scales


def parts(channels: int, size: int) -> Iterator[slice]:
    """Slices of the channels, of about :data:`_CHUNK` weights each."""
    step = max(1, _CHUNK * channels // max(size, 1))
    return (slice(start, min(start + step, channels)) for start in range(0, channels, step))


def _narrowed(
    rows: Floats, peaks: Floats, whole: Floats, least: Floats | None, levels: float, *, half_scales: bool
) -> Floats:
    """The scales with the least squared error that aren't above ``whole``.

    The error is the sum of two functions that are convex in the range, but for the luck of rounding: a grid of equal
    ratios brackets the least, and rounds of a finer one around the best so far close in on it.

    Args:
        rows: float32 [channels, weights].
        peaks: float32 [channels]: max|w|.
        whole: float32 [channels]: the scales for the whole range.
        least: the smallest scales to use.
        levels: the largest magnitude after scaling.
        half_scales: use only scales that float16 holds exactly.
    """
    buffers = np.empty_like(rows), np.empty_like(rows)

    def error(scales: Floats) -> NDArray[np.float64]:
        scaled, rounded = buffers
        np.divide(rows, scales[:, None], out=scaled)
        np.rint(scaled, out=rounded)
        np.clip(rounded, -levels, levels, out=rounded)
        scaled -= rounded
        squares: NDArray[np.float32] = np.einsum("ij,ij->i", scaled, scaled)
        return squares * scales.astype(np.float64) ** 2

    at_most = error(whole)
    best, lowest = whole.copy(), at_most.copy()

    def consider(ranges: NDArray[np.float64]) -> None:
        scales = _settle((ranges / levels).astype(np.float32), least, half_scales=half_scales)
        found = error(scales)
        better = (found < lowest) & (scales < whole)
        best[better], lowest[better] = scales[better], found[better]

    full = whole.astype(np.float64) * levels
    bottom = np.maximum(peaks - np.sqrt(at_most), full * _SMALLEST)
    ratio = np.minimum(bottom / full, 1.0) ** (1 / _GRID)
    for step in range(1, _GRID + 1):
        consider(full * ratio**step)
    for _ in range(_ROUNDS):
        middle = best.astype(np.float64) * levels
        for step in (-2, -1, 1, 2):
            consider(middle * ratio ** (step / 3))
        ratio = ratio ** (1 / 3)
    return np.where(lowest < at_most * (1 - _WORTH), best, whole)
