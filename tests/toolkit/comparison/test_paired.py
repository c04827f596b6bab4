"""Paired statistics against brute force, published values, scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from toolkit.comparison.accuracy.paired import mcnemar, paired_interval

Z = 1.959963984540054


def likeliest(difference: float, b: int, c: int, n: int) -> float:
    """The probability of a pair that only the second gets right, by maximising the likelihood itself."""

    def loss(second: float) -> float:
        cells = np.array([second + difference, second, 1 - 2 * second - difference])
        counts = np.array([b, c, n - b - c])
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(counts > 0, counts * np.log(cells), 0)
        return float(-terms.sum()) if not np.isnan(terms.sum()) else np.inf

    bounds = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return min((found.x, *bounds), key=loss)


def score(difference: float, b: int, c: int, n: int) -> float:
    second = likeliest(difference, b, c, n)
    variance = n * (2 * second + difference - difference**2)
    distance = b - c - n * difference
    return distance / variance**0.5 if variance > 1e-12 else np.sign(distance) * np.inf


@pytest.mark.parametrize(
    ("b", "c", "n"), [(1, 7, 21), (40, 20, 160), (12, 2, 50), (3, 0, 359), (0, 1, 44), (9, 9, 18), (2, 30, 40)]
)
def test_the_bounds_are_the_differences_at_which_the_score_test_just_rejects(b, c, n):
    low, high = paired_interval(b, c, n)
    assert low < (b - c) / n < high
    assert score(low, b, c, n) == pytest.approx(Z, abs=2e-4)
    assert score(high, b, c, n) == pytest.approx(-Z, abs=2e-4)


def test_the_interval_is_the_published_one():
    """Airway hyper-responsiveness of 21 children, 1 better and 7 worse: Fagerland, Lydersen & Laake 2014."""
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("n", [1, 50, 10_000])
def test_no_discordant_pair_still_leaves_doubt_as_large_as_the_sample_is_small(n):
    """Solved by hand: n d^2 = z^2 d (1 - d)."""
    bound = Z**2 / (n + Z**2)
    assert paired_interval(0, 0, n) == pytest.approx((-bound, bound), abs=1e-9)


def test_a_certain_difference_reaches_the_end_of_the_scale():
    """The lower bound solved by hand: n (1 - d) = z^2 (1 + d)."""
    low, high = paired_interval(30, 0, 30)
    assert high == 1
    assert low == pytest.approx((30 - Z**2) / (30 + Z**2), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_swapping_the_two_mirrors_the_interval_and_it_holds_the_estimate(b, c, rest):
    n = b + c + rest + 1
    low, high = paired_interval(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    assert paired_interval(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("n", "hurt", "helped"), [(359, 0.01, 0.005), (359, 0.002, 0.002), (60, 0.2, 0.1)])
def test_the_interval_covers_the_true_difference_in_95_of_100_samples(n, hurt, helped):
    draws = np.random.default_rng(7).multinomial(n, [hurt, helped, 1 - hurt - helped], 4000)
    intervals = {(b, c): paired_interval(b, c, n) for b, c in {(int(b), int(c)) for b, c, _ in draws}}
    covered = np.mean(
        [low <= hurt - helped <= high for low, high in (intervals[int(b), int(c)] for b, c, _ in draws)]
    )
    assert 0.935 < covered < 0.995


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_mcnemar_is_the_exact_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("b", "c"), [(5000, 5200), (100_000, 99_000), (0, 5000)])
def test_mcnemar_takes_any_number_of_pairs(b, c):
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-8, abs=1e-300)
