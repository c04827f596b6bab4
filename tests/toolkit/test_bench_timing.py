import math

import numpy as np
import pytest

from engines.sessions.base import StageTimes
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.timing import Timing, speed_ratio


def timing(blocks: list[list[float]], batch: int = 1) -> Timing:
    return Timing.of(batch, [Block(tuple(block)) for block in blocks])


def test_percentiles_are_the_smallest_times_that_enough_runs_kept():
    times = [float(value) for value in np.random.default_rng(0).permutation(200) + 1]
    result = timing([times[:50], times[50:]])
    assert (result.p50, result.p95, result.p99) == (100, 190, 198)
    assert (result.minimum, result.mean, result.runs) == (1, 100.5, 200)


def test_below_a_hundred_runs_p99_is_the_slowest():
    assert timing([[3.0, 1.0, 2.0]]).p99 == 3.0


def test_throughput_is_images_over_the_sum_of_times():
    assert timing([[0.1, 0.3], [0.1]], batch=8).images_per_second == pytest.approx(3 * 8 / 0.5)


def test_stages_are_medians_of_all_runs_and_absent_without_a_device():
    stages = [StageTimes(a, b, c) for a, b, c in [(1, 10, 100), (2, 30, 300), (9, 20, 200)]]
    blocks = [Block((1.0, 1.0), tuple(stages[:2])), Block((1.0,), tuple(stages[2:]))]
    assert Timing.of(1, blocks).stages == StageTimes(2, 20, 200)
    assert timing([[1.0]]).stages is None


def test_the_json_of_a_timing_keeps_every_run():
    value = timing([[0.25, 0.5], [0.125]], batch=2).to_json()
    assert value["block_seconds"] == [[0.25, 0.5], [0.125]]
    assert value["runs"] == 3
    assert value["latency_seconds"]["p50"] == 0.25
    assert value["stage_seconds"] is None


def test_a_ratio_pairs_neighbours_in_time_so_that_drift_cancels():
    drift = [1.0, 1.5, 3.0, 2.0, 1.2, 5.0, 1.1, 0.9]
    reference = timing([[2 * d] for d in drift])
    rival = timing([[1 * d] for d in drift])
    ratio = speed_ratio(reference, rival)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_fewer_than_six_rounds_give_no_interval():
    five, six = timing([[1.0]] * 5), timing([[1.0]] * 6)
    assert speed_ratio(five, five).low is None
    assert speed_ratio(six, six).low == 1.0


@pytest.mark.parametrize("rounds", [6, 8, 10, 25])
def test_the_interval_has_the_binomial_coverage_and_no_more_than_it_needs(rounds):
    """Ranks that grow from 1: the interval is a pair of order statistics whose exact coverage is known."""
    ratio = speed_ratio(timing([[1.0]] * rounds), timing([[1 / (k + 1)] for k in range(rounds)]))
    k = round(ratio.low)
    assert round(ratio.high) == rounds + 1 - k

    def coverage(rank):
        return 1 - 2 * sum(math.comb(rounds, j) for j in range(rank)) / 2**rounds

    assert coverage(k) >= 0.95 > coverage(k + 1)


def test_equal_rivals_are_called_equal_and_slower_ones_slower_at_least_19_times_in_20():
    rng = np.random.default_rng(1)
    experiments, equal, slower = 2000, 0, 0

    def rounds(cost, weather):
        # Heavy-tailed noise (a run in twenty takes three times as long), on a machine that slows down and recovers.
        noise = rng.lognormal(0, 0.03, (10, 7)) * np.where(rng.random((10, 7)) < 0.05, 3, 1)
        return timing((cost * noise * weather[:, None]).tolist())

    for _ in range(experiments):
        weather = rng.uniform(1, 1.5, 10)
        reference = rounds(1.0, weather)
        same = speed_ratio(reference, rounds(1.0, weather))
        equal += same.low <= 1 <= same.high
        slower += speed_ratio(reference, rounds(1.1, weather)).high < 1
    assert equal / experiments >= 0.95
    assert slower / experiments >= 0.95
