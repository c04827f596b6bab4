import numpy as np
import pytest
import scipy.stats

from toolkit.benchmarking.statistics import difference_interval, log_ratio_interval, summary_intervals
from toolkit.benchmarking.timing import RATIO_CONFIDENCE


def test_one_launch_of_one_run_a_turn_has_the_plain_bootstraps_intervals():
    """Launches and turns that can't differ leave the ordinary percentile bootstrap, which SciPy has too."""
    times = np.random.default_rng(0).lognormal(0, 0.2, 40)
    found = summary_intervals([[(float(time),) for time in times]], 4, 0.95)
    for name, statistic in {
        "images_per_second": lambda x, axis: 4 / np.mean(x, axis),
        "p50": lambda x, axis: np.quantile(x, 0.5, axis, method="inverted_cdf"),
        "p95": lambda x, axis: np.quantile(x, 0.95, axis, method="inverted_cdf"),
    }.items():
        theirs = scipy.stats.bootstrap((times,), statistic, n_resamples=4000, method="percentile", rng=1)
        assert found[name] == pytest.approx(tuple(theirs.confidence_interval), rel=0.03), name


def test_the_ratio_of_one_launch_has_the_plain_bootstraps_interval():
    logs = np.random.default_rng(1).normal(0.1, 0.05, 25)
    value, low, high = log_ratio_interval([list(logs)], 0.99)
    theirs = scipy.stats.bootstrap((logs,), np.median, confidence_level=0.99, method="percentile", rng=1)
    assert value == np.median(logs)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_the_difference_of_two_samples_has_the_plain_bootstraps_interval():
    rng = np.random.default_rng(2)
    one, other = rng.normal(1, 0.1, 30), rng.normal(0.8, 0.1, 20)
    value, low, high = difference_interval(one, other, 0.95)
    theirs = scipy.stats.bootstrap(
        (one, other), lambda a, b, axis: np.median(a, axis) - np.median(b, axis), method="percentile", rng=1
    )
    assert value == np.median(one) - np.median(other)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert difference_interval(one[:5], other, 0.95)[1:] == (None, None)


def test_percentiles_of_very_many_runs_are_as_of_few():
    """Beyond some hundred runs they are counted in bins, close together in the tail."""
    rng = np.random.default_rng(3)
    launches = [[tuple(rng.lognormal(0, 0.1, 300)) for _ in range(10)] for _ in range(2)]
    times = np.concatenate([turn for launch in launches for turn in launch])
    found = summary_intervals(launches, 1, 0.95)
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        low, high = found[name]
        assert low <= np.quantile(times, q) <= high
        assert high - low < 0.06
    assert {bound for bounds in (found[f"p{q}"] for q in (50, 95, 99)) for bound in bounds} <= set(times)


def test_the_same_times_give_the_same_interval():
    launches = [list(np.random.default_rng(number).normal(0, 0.1, 20)) for number in range(2)]
    assert log_ratio_interval(launches, 0.99) == log_ratio_interval(launches, 0.99)


def test_what_launches_differ_by_is_in_the_interval_of_two_and_not_of_one():
    rng = np.random.default_rng(4)
    launches = [list(rng.normal(effect, 0.005, 20)) for effect in (0.03, -0.03)]
    _, low, high = log_ratio_interval(launches, 0.95)
    assert low < -0.02
    assert high > 0.02
    _, low, _ = log_ratio_interval(launches[:1], 0.95)
    assert low > 0.02


def rounds(rng: np.random.Generator, effect: float, count: int) -> "list[float]":
    """Log ratios of one launch: what was opened first is slower, and bursts of others' work last several turns.

    A burst hits a turn of one rival as a whole, and the next turns with it more often than not.
    """
    noise, state = np.empty(2 * count), 0.0
    for turn in range(2 * count):
        state = 0.7 * state + rng.normal(0, 0.03) + (rng.random() < 0.03) * rng.exponential(0.5)
        noise[turn] = state
    return list(effect + noise[::2] - noise[1::2] + rng.normal(0, 0.01, count))


def test_equals_are_called_equal_and_a_tenth_more_slower_nineteen_times_of_twenty():
    """Simulated launches: the one opened first is 1 to 3 % slower, and no two launches are quite alike."""
    rng = np.random.default_rng(5)
    comparisons, equal, slower = 150, 0, 0
    for _ in range(comparisons):
        placement = rng.uniform(0.01, 0.03)
        effects = [sign * placement + rng.normal(0, 0.005) for sign in (1, -1)]
        launches = [np.array(rounds(rng, effect, 20)) for effect in effects]
        _, low, high = log_ratio_interval(launches, RATIO_CONFIDENCE)
        equal += low <= 0 <= high
        _, _, high = log_ratio_interval([launch - np.log(1.1) for launch in launches], RATIO_CONFIDENCE)
        slower += high < 0
    assert equal >= 0.97 * comparisons
    assert slower >= 0.97 * comparisons
