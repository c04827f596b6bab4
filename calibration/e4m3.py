"""FP8 as engines compute in it: e4m3fn, a sign, four bits of exponent, three of mantissa.

P. Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433 (2022); ONNX calls it FLOAT8E4M3FN. The
exponent's bias is 7. There is no infinity; the codes 0x7F and 0xFF are NaN, so that the largest number is 448. Below
2^-6 the numbers are subnormal, 2^-9 apart. Sixteen binades lie between the smallest subnormal and the largest
number: where INT8 has to choose between outliers and resolution, FP8's relative error is the same (at most 2^-4)
over fifteen of them.

Bits are made here and not by a library, since onnx changed from release to release what numpy sees of this type.
"""

import numpy as np
from numpy.typing import NDArray

from calibration.weights import Floats, scales_for

LARGEST = 448.0
"""The largest number."""

_SMALLEST_NORMAL = 2.0**-6
_SUBNORMAL_STEP = 2.0**-9
_DROPPED = 23 - 3
"""Bits of a float32's mantissa that e4m3 doesn't have."""
_REBIAS = (127 - 7) << 3
_CHUNK = 1 << 20
"""Elements a step: what is in between stays in the processor's cache."""

Codes = NDArray[np.uint8]


def encode(values: Floats) -> Codes:
    """The nearest e4m3 numbers, ties to even, saturated at ±448: as ONNX's QuantizeLinear has it.

    Args:
        values: float32 of any shape, finite.

    Returns:
        uint8 of the same shape: the numbers' bits.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    codes = np.empty(flat.size, np.uint8)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        magnitudes = np.minimum(np.abs(part), np.float32(LARGEST))
        bits = magnitudes.view(np.uint32)
        odd = bits >> _DROPPED & 1
        normal = (bits + (1 << (_DROPPED - 1)) - 1 + odd >> _DROPPED) - _REBIAS
        subnormal = np.rint(magnitudes / np.float32(_SUBNORMAL_STEP)).astype(np.uint32)
        found = np.where(magnitudes < _SMALLEST_NORMAL, subnormal, normal)
        codes[start : start + _CHUNK] = found | np.signbit(part).astype(np.uint32) << 7
    return codes.reshape(np.shape(values))


def decode(codes: Codes) -> Floats:
    """The numbers that ``codes`` stand for, float32 of the same shape, exactly."""
    exponents, mantissas = np.arange(16)[:, None], np.arange(8)[None, :]
    normal = (1 + mantissas / 8) * 2.0 ** (exponents - 7)
    positive = np.where(exponents == 0, mantissas * _SUBNORMAL_STEP, normal).reshape(-1)
    positive[127] = np.nan
    table = np.concatenate([positive, -positive]).astype(np.float32)
    return np.asarray(table[codes])


def levels() -> NDArray[np.float64]:
    """Every number that isn't negative, rising from 0 to 448: float64 [127]."""
    return decode(np.arange(127, dtype=np.uint8)).astype(np.float64)


def quantise_weight_fp8(values: Floats, axis: int, *, half_scales: bool = False) -> tuple[Codes, Floats]:
    """e4m3 weights, a scale a channel: ``w / scale`` rounded, with ``scale = max|w| / 448``.

    Nothing is clipped here, whatever is done to INT8 weights: a narrower range gives a floating-point number no finer
    steps. (Of 2,000 normal or Laplace weights, the best of all ranges saves 0.1 dB.)

    Args:
        values: float32 of any shape.
        axis: the dimension of the channels.
        half_scales: round scales up to what float16 holds.

    Returns:
        The bits, uint8 of the same shape, and the scales, float32 [channels]. A channel of zeros has scale 1.
    """
    scales = scales_for(values, axis, levels=LARGEST, half_scales=half_scales)
    return encode(values / scales.reshape([-1 if index == axis else 1 for index in range(values.ndim)])), scales
