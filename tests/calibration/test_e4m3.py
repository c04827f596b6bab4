"""FP8's numbers: against their definition, and against an independent implementation."""

import numpy as np
import pytest

from calibration.e4m3 import LARGEST, decode, encode, levels, quantise_weight_fp8

RNG = np.random.default_rng(0)


def by_definition(code: int) -> float:
    """Sign, four bits of exponent with a bias of 7, three of mantissa; the highest code is NaN."""
    sign, exponent, mantissa = -1 if code & 0x80 else 1, code >> 3 & 0xF, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return float(sign * mantissa * 2.0**-9)
    return float(sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def test_every_code_stands_for_the_number_of_the_formats_definition() -> None:
    expected = [by_definition(code) for code in range(256)]
    np.testing.assert_array_equal(decode(np.arange(256, dtype=np.uint8)), np.array(expected, np.float32))


def test_levels_rise_from_zero_to_the_largest_number() -> None:
    found = levels()
    assert (found[0], found[1], found[-1], len(found)) == (0.0, 2.0**-9, 448.0, 127)
    assert (np.diff(found) > 0).all()


def test_every_number_is_its_own_nearest() -> None:
    codes = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)
    np.testing.assert_array_equal(encode(decode(codes)), codes)


def test_what_lies_between_goes_to_the_nearest_and_ties_to_the_even_one() -> None:
    low, high = levels()[:-1], levels()[1:]
    middle = ((low + high) / 2).astype(np.float32)
    even = np.arange(126) + np.arange(126) % 2
    np.testing.assert_array_equal(encode(middle), even)
    np.testing.assert_array_equal(encode(np.nextafter(middle, np.float32(0))), np.arange(126))
    np.testing.assert_array_equal(encode(np.nextafter(middle, np.float32(1e9))), np.arange(1, 127))


def test_what_is_too_large_saturates() -> None:
    values = np.array([448, 449, 464.1, 1e30, -448.1, -1e30], np.float32)
    assert decode(encode(values)).tolist() == [LARGEST] * 4 + [-LARGEST] * 2


def test_random_numbers_of_every_size_are_rounded_as_another_implementation_does() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = (RNG.normal(0, 1, 300_000) * 10.0 ** RNG.uniform(-6, 4, 300_000)).astype(np.float32)
    values = np.concatenate([values, [0.0, -0.0]]).astype(np.float32).reshape(2, -1)
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(encode(values), expected.view(np.uint8))


def test_a_weights_largest_number_is_448_in_each_channel() -> None:
    weight = (RNG.normal(0, 1, (5, 7, 3)) * np.array([1, 1e-4, 300, 0, 1])[:, None, None]).astype(np.float32)
    stored, scales = quantise_weight_fp8(weight, 0)
    back = decode(stored) * scales[:, None, None]
    assert scales[3] == 1.0
    assert not back[3].any()
    np.testing.assert_allclose(scales[[0, 1, 2, 4]], np.abs(weight).max(axis=(1, 2))[[0, 1, 2, 4]] / 448, rtol=1e-6)
    error, largest = np.abs(back - weight), np.abs(weight).max(axis=(1, 2), keepdims=True)
    assert (error <= np.abs(weight) * 2.0**-4 + largest / 448 * 2.0**-10).all()


def test_half_scales_are_float16_numbers_that_clip_nothing() -> None:
    weight = RNG.normal(0, 1e-3, (6, 50)).astype(np.float32)
    _, scales = quantise_weight_fp8(weight, 0, half_scales=True)
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    assert (np.abs(weight).max(axis=1) <= scales * 448).all()
