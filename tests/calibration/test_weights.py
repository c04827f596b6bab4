"""Weights in 8 bits: the range with the least squared error, against a search of everything."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calibration import weights as module
from calibration.weights import SEARCHED, half_up, quantise_weight, scales_for
from engines.errors import InputError

RNG = np.random.default_rng(0)


def error(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The squared error of each row, computed apart in float64."""
    steps = scales.astype(np.float64)[:, None]
    stored = np.clip(np.rint(rows / scales[:, None]), -127, 127)
    return ((rows.astype(np.float64) - stored * steps) ** 2).sum(axis=1)


def least_error(rows: np.ndarray, *, half_scales: bool = False) -> np.ndarray:
    """The least squared error of 500 ranges."""
    peaks = np.abs(rows).max(axis=1)
    candidates = ((peaks * share / 127).astype(np.float32) for share in np.linspace(0.002, 1, 500))
    return np.min([error(rows, half_up(item) if half_scales else item) for item in candidates], axis=0)


def spikes(rows: int, columns: int, height: float) -> np.ndarray:
    values = RNG.normal(0, 1, (rows, columns))
    values[:, 3] = height
    return values


HEAVY = {
    "student 3": lambda n: RNG.standard_t(3, (3, n)),
    "cauchy": lambda n: RNG.standard_t(1, (3, n)),
    "one spike": lambda n: spikes(3, n, 60),
    "tiny": lambda n: 1e-30 * spikes(3, n, -60),
    "huge": lambda n: 1e30 * spikes(3, n, 60),
}


@pytest.mark.parametrize(
    ("name", "half_scales"), [*((name, False) for name in HEAVY), ("student 3", True), ("one spike", True)]
)
@pytest.mark.parametrize("columns", [1024, 9216])
def test_the_clip_is_as_good_as_a_search_of_everything(name, columns, half_scales):
    rows = HEAVY[name](columns).astype(np.float32)
    found = scales_for(rows, 0, clip="mse", half_scales=half_scales)
    best = least_error(rows, half_scales=half_scales)
    assert (error(rows, found) <= best * 1.003).all()


def test_what_a_clip_saves_is_what_the_theory_allows():
    """n / (n + 12 · 127²) of the squared error, reached where one weight stands out."""
    for columns in (2048, 9216, 32768):
        rows = spikes(8, columns, 60).astype(np.float32)
        saved = 1 - error(rows, scales_for(rows, 0, clip="mse")) / error(rows, scales_for(rows, 0))
        assert saved.mean() == pytest.approx(columns / (columns + 12 * 127**2), rel=0.15)


def test_the_ratio_that_is_searched_is_where_a_normal_channel_could_gain():
    """The numbers in the module's head; ∫ (x - r)² φ(x) dx from r is (1 + r²) Q(r) - r φ(r)."""

    def noise(limit: float) -> float:
        beyond, density = math.erfc(limit / 2**0.5) / 2, math.exp(-(limit**2) / 2) / (2 * math.pi) ** 0.5
        return limit**2 / (12 * 127**2) + 2 * ((1 + limit**2) * beyond - limit * density)

    least, limit = min((noise(limit), limit) for limit in np.linspace(3, 5, 2001))
    assert limit == pytest.approx(3.92, abs=0.01)
    assert (least * 12 * 127**2) ** 0.5 == pytest.approx(4.13, abs=0.01)
    whole = SEARCHED**2 / (12 * 127**2)
    assert whole == pytest.approx(1.2 * least, rel=0.02)


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=40),
        elements=st.floats(-(2.0**20), 2.0**20, width=32),
        fill=st.sampled_from([0.0, 1.0, 0.25]),
    ),
    st.integers(0, 1),
    st.booleans(),
    st.sampled_from([None, 0.0, 1e-3, 3.0]),
)
@example(np.zeros((2, 3), np.float32), 0, True, None)
def test_never_a_larger_error_than_with_the_whole_range(values, axis, half_scales, smallest):
    channels = values.shape[axis]
    least = None if smallest is None else np.full(channels, smallest, np.float32)
    (stored, scales), (whole, full) = (
        quantise_weight(values, axis, half_scales=half_scales, least=least, clip=clip) for clip in ("mse", "max")
    )
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    others = tuple(index for index in range(values.ndim) if index != axis)

    def errors(numbers: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return ((values - numbers.astype(np.float64) * steps.reshape(shape)) ** 2).sum(axis=others)

    assert (errors(stored, scales) <= errors(whole, full)).all()
    assert (scales <= full).all()
    assert (scales > 0).all()
    if least is not None:
        assert (scales >= least).all()
    if half_scales:
        np.testing.assert_array_equal(scales, scales.astype(np.float16))


@pytest.mark.parametrize("clip", ["max", "mse"])
def test_axes_and_pieces_give_what_rows_in_one_piece_give(clip, monkeypatch):
    values = RNG.standard_t(2, (24, 10, 5, 5)).astype(np.float32)
    expected, steps = quantise_weight(values.reshape(24, -1), 0, clip=clip)
    for chunk in (2**18, 700, 1):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        for axis in range(4):
            stored, scales = quantise_weight(np.ascontiguousarray(np.moveaxis(values, 0, axis)), axis, clip=clip)
            np.testing.assert_array_equal(np.moveaxis(stored, axis, 0).reshape(24, -1), expected)
            np.testing.assert_array_equal(scales, steps)


def test_even_channels_keep_the_whole_range():
    rows = RNG.uniform(-1, 1, (16, 4000)).astype(np.float32)
    np.testing.assert_array_equal(scales_for(rows, 0, clip="mse"), scales_for(rows, 0))


def test_no_scale_goes_below_the_least_and_dead_channels_have_scale_1():
    rows = np.concatenate([spikes(4, 9000, 60), np.zeros((1, 9000))]).astype(np.float32)
    free = scales_for(rows, 0, clip="mse")
    least = (free * np.float32(1.01)).astype(np.float32)
    bounded = scales_for(rows, 0, clip="mse", least=least)
    assert (free[:4] < least[:4]).all()
    assert ((bounded >= least) & (bounded <= scales_for(rows, 0, least=least)))[:4].all()
    assert free[4] == 1.0


def test_other_numbers_of_levels_scale_the_whole_range():
    rows = RNG.normal(0, 1, (4, 50)).astype(np.float32)
    np.testing.assert_allclose(scales_for(rows, 0, levels=448), np.abs(rows).max(axis=1) / 448, rtol=1e-6)


def test_an_unknown_clip_is_refused():
    with pytest.raises(InputError, match="'best'"):
        quantise_weight(np.ones((2, 2), np.float32), 0, clip="best")
