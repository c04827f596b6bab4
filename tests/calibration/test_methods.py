"""Every method against a slow computation of its own definition."""

import math

import numpy as np
import pytest

from calibration.histogram import GrowingHistogram, Histogram
from calibration.methods import (
    DEFAULT_METHOD,
    METHODS,
    default_method,
    find_method,
    methods_for,
)
from calibration.methods.entropy import BINS, LEVELS, entropy, kl_divergences
from calibration.methods.mse import FP8_LEVELS, mse, mse_fp8, squared_errors
from calibration.methods.percentile import percentile
from engines.errors import InputError

EVERY = [(precision, name) for precision in ("int8", "fp8") for name in methods_for(precision)]
N = 60_000
RNG = np.random.default_rng(7)
DISTRIBUTIONS = {
    "gauss": RNG.normal(0, 1.3, N),
    "relu": np.maximum(RNG.normal(0, 1, N), 0),
    "laplace": RNG.laplace(0, 0.02, N),
    "uniform": RNG.uniform(-3, 3, N),
    "pixels": (RNG.integers(0, 256, N) / 255 - 0.45) / 0.22,
    "long tail": np.exp(RNG.normal(0, 1, N)),
}


def collected(values: np.ndarray) -> Histogram:
    histogram = GrowingHistogram()
    histogram.add(np.asarray(values).astype(np.float32))
    return histogram.freeze()


def slow_divergence(bins: np.ndarray, size: int, above: float = 0.0) -> float:
    """KL(P‖Q) of one candidate, as Migacz's slides describe it, bin by bin."""
    reference = [float(count) for count in bins[:size]]
    outliers = float(sum(bins[size:])) + above
    quantised = [0.0] * size
    for level in range(LEVELS):
        start, stop = level * size // LEVELS, (level + 1) * size // LEVELS
        filled = [index for index in range(start, stop) if bins[index] > 0]
        for index in filled:
            quantised[index] = float(sum(bins[start:stop])) / len(filled)
    reference[-1] += outliers
    p_total, q_total = sum(reference), sum(quantised)
    divergence = 0.0
    for p, q in zip(reference, quantised, strict=True):
        if p > 0:
            if q == 0:
                return math.inf
            divergence += p / p_total * math.log((p / p_total) / (q / q_total))
    return divergence


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_all_divergences_at_once_equal_those_computed_bin_by_bin(name):
    counts, _ = np.histogram(np.abs(DISTRIBUTIONS[name]), 300)
    found = kl_divergences(counts.astype(float), above=12.0)
    expected = [slow_divergence(counts, size, 12.0) for size in range(LEVELS, 301)]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)


def test_a_range_that_clips_into_an_empty_bin_is_ruled_out():
    bins = np.ones(200)
    bins[150:] = 0
    bins[199] = 5
    found = kl_divergences(bins)
    assert np.isinf(found[151 - LEVELS : 199 - LEVELS + 1]).all()
    assert np.isfinite(found[[0, 150 - LEVELS, -1]]).all()


def slow_entropy(values: np.ndarray) -> float:
    """The published search over 2,048 bins of the whole range, candidates from the upper half."""
    counts, _ = np.histogram(np.abs(values), BINS)
    counts[0] = counts[1]
    sizes = range(BINS // 2 + 1, BINS + 1, 16)
    best = min(sizes, key=lambda size: slow_divergence(counts, size))
    return float(np.abs(values).max() * best / BINS)


@pytest.mark.parametrize("name", ["gauss", "relu", "uniform"])
def test_entropy_finds_the_range_of_the_published_search_on_ordinary_distributions(name):
    values = DISTRIBUTIONS[name].astype(np.float32)
    bins, _ = np.histogram(np.abs(values), BINS)
    bins[0] = bins[1]
    found = entropy(collected(values))
    amax = float(np.abs(values).max())
    best = slow_entropy(values)
    at_found = slow_divergence(bins, round(found / amax * BINS))
    assert at_found <= slow_divergence(bins, round(best / amax * BINS)) * 1.05 + 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_ranges_scale_with_the_values(scale):
    values = DISTRIBUTIONS["laplace"]
    for name, method in METHODS.items():
        assert method(collected(values * scale)) == pytest.approx(method(collected(values)) * scale, rel=0.02), name


@pytest.mark.parametrize("outlier", [300.0, 1e4, 1e6, 1e9])
def test_entropy_is_not_lost_to_an_outlier_however_far_it_lies(outlier):
    values = DISTRIBUTIONS["gauss"]
    alone = entropy(collected(values))
    assert entropy(collected(np.append(values, outlier))) == pytest.approx(alone, rel=0.15)


def test_entropy_keeps_a_hundredth_of_the_values_even_where_they_are_far_from_the_rest():
    values = np.concatenate([DISTRIBUTIONS["gauss"], RNG.normal(300, 5, N // 50)])
    assert entropy(collected(values)) > 285


def test_entropy_does_not_clip_a_narrow_distribution_far_from_zero():
    values = RNG.normal(1, 0.04, N)
    assert entropy(collected(values)) > np.quantile(values, 0.98)


def test_entropy_of_few_distinct_values_keeps_them_all():
    grey = RNG.choice(17, N, p=[0.5, *[0.5 / 16] * 16]) / 16
    assert entropy(collected(grey)) == 1.0
    assert entropy(collected(np.full(100, -2.5))) == 2.5


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("share", [0.5, 0.99, 0.9999])
def test_percentile_is_numpys_quantile_within_a_bin(name, share):
    magnitudes = np.abs(DISTRIBUTIONS[name].astype(np.float32)).astype(np.float64)
    found = percentile(collected(magnitudes), share)
    low, high = np.quantile(magnitudes, [max(share - 2 / N, 0), min(share + 2 / N, 1)])
    assert low * (1 - 2**-9) <= found <= high * (1 + 2**-9) + 1e-30


def test_percentile_of_everything_is_the_largest_value_and_of_nothing_an_error():
    histogram = collected(DISTRIBUTIONS["gauss"])
    assert percentile(histogram, 1.0) == histogram.amax
    with pytest.raises(ValueError, match="share 0"):
        percentile(histogram, 0)


def squared_error(values: np.ndarray, amax: float) -> float:
    step = amax / 127
    quantised = np.clip(np.rint(values / step), -127, 127) * step
    return float(((values - quantised) ** 2).sum())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_squared_errors_equal_those_of_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    ranges = np.abs(values).max() * np.array([0.2, 0.5, 0.8, 1.0])
    found = squared_errors(collected(values), ranges)
    expected = [squared_error(values, amax) for amax in ranges]
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_as_good_as_a_search_over_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    candidates = np.abs(values).max() * np.linspace(0.02, 1, 150)
    least = min(squared_error(values, amax) for amax in candidates)
    assert squared_error(values, mse(collected(values))) <= least * 1.01


def fp8_error(values: np.ndarray, amax: float) -> float:
    """The squared error of e4m3 with its largest number at ``amax``, number by number from its definition."""
    scaled = np.minimum(np.abs(values) * 448 / amax, 448)
    binade = np.maximum(np.floor(np.log2(np.maximum(scaled, 1e-30))), -6)
    step = 2.0 ** (binade - 3)
    quantised = np.minimum(np.rint(scaled / step) * step, 448) * amax / 448
    return float(((np.abs(values) - quantised) ** 2).sum())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_squared_errors_of_fp8_equal_those_of_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    ranges = np.abs(values).max() * np.array([1e-3, 0.02, 0.5, 0.83, 1.0])
    found = squared_errors(collected(values), ranges, FP8_LEVELS)
    np.testing.assert_allclose(found, [fp8_error(values, amax) for amax in ranges], rtol=0.02)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_of_fp8_is_as_good_as_a_search_over_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    candidates = np.abs(values).max() * 2.0 ** -np.linspace(0, 4, 200)
    least = min(fp8_error(values, amax) for amax in candidates)
    assert fp8_error(values, mse_fp8(collected(values))) <= least * 1.005


def test_fp8_holds_an_outlier_at_no_cost_to_the_rest():
    values = DISTRIBUTIONS["gauss"].astype(np.float32).astype(np.float64)
    wide = mse_fp8(collected(np.append(values, 1000.0)))
    assert wide > 900
    assert fp8_error(values, wide) < 1.1 * fp8_error(values, mse_fp8(collected(values)))


def test_minmax_is_the_largest_magnitude():
    assert METHODS["minmax"](collected(np.array([-3.5, 1, 2]))) == 3.5


@pytest.mark.parametrize(("precision", "name"), EVERY)
def test_every_method_stays_within_what_was_seen(precision, name):
    for values in DISTRIBUTIONS.values():
        histogram = collected(values)
        assert 0 < find_method(name, precision)(histogram) <= histogram.amax


@pytest.mark.parametrize(("precision", "name"), EVERY)
def test_a_tensor_of_zeros_has_range_zero(precision, name):
    assert find_method(name, precision)(collected(np.zeros(100))) == 0.0


def test_the_default_is_entropy_for_int8_and_mse_for_fp8_where_entropy_is_not_defined():
    assert DEFAULT_METHOD == default_method("int8") == "entropy"
    assert default_method("fp8") == "mse"
    assert methods_for("fp8")["mse"] is not methods_for("int8")["mse"]
    with pytest.raises(InputError, match="'entropy' isn't defined for FP8") as caught:
        find_method("entropy", "fp8")
    assert caught.value.remedy == "methods of fp8 are mse, percentile, minmax"
    with pytest.raises(InputError, match="'magic' is unknown"):
        find_method("magic", "int8")
