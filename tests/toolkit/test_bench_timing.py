import json

import numpy as np
import pytest

from engines.sessions.base import StageTimes
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.timing import Interval, Timing, speed_ratio


def timing(*launches: list[list[float]], batch: int = 1) -> Timing:
    return Timing.of(batch, [[Block(tuple(turn)) for turn in launch] for launch in launches])


def test_percentiles_are_the_smallest_times_that_enough_runs_kept():
    times = [float(value) for value in np.random.default_rng(0).permutation(200) + 1]
    result = timing([times[:50]], [times[50:]])
    assert (result.p50, result.p95, result.p99) == (100, 190, 198)
    assert (result.minimum, result.mean, result.runs) == (1, 100.5, 200)


def test_below_a_hundred_runs_p99_is_the_slowest():
    assert timing([[3.0, 1.0, 2.0]]).p99 == 3.0


def test_throughput_is_images_over_the_sum_of_times():
    assert timing([[0.1, 0.3]], [[0.1]], batch=8).images_per_second == pytest.approx(3 * 8 / 0.5)


def test_stages_are_medians_of_a_launch_averaged_over_launches_and_absent_without_a_device():
    stages = [StageTimes(a, b, c) for a, b, c in [(1, 10, 100), (2, 30, 300), (9, 20, 200), (4, 40, 400)]]
    blocks = [Block((1.0, 1.0), tuple(stages[:2])), Block((1.0,), (stages[2],))]
    assert Timing.of(1, [blocks]).stages == StageTimes(2, 20, 200)
    both = Timing.of(1, [blocks, [Block((1.0,), (stages[3],))]])
    assert both.stages == StageTimes(3, 30, 300)
    later = Timing.of(1, [[Block((1.0,), (stages[3],))]], before=Timing.of(1, [blocks]))
    assert later == both
    assert timing([[1.0]]).stages is None


def test_the_json_of_a_timing_keeps_every_run_and_reads_back_as_the_same():
    result = timing([[0.25, 0.5], []], [[0.125]] * 6, batch=2)
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value["run_seconds"] == [[[0.25, 0.5], []], [[0.125]] * 6]
    assert (value["runs"], value["launches"]) == (8, 2)
    assert value["latency_seconds"]["p50"] == 0.125
    assert value["stage_seconds"] is None
    assert set(value["intervals"]) == {"p50", "p95", "p99", "images_per_second"}
    assert Timing.from_json(value) == result
    device = Timing.of(1, [[Block((1.0,), (StageTimes(1, 2, 3),))]])
    assert Timing.from_json(device.to_json()) == device


def test_turns_are_those_that_were_taken():
    assert timing([[1.0], []], [[2.0]]).blocks == ((1.0,), (2.0,))


def test_the_first_launches_of_a_timing_are_a_timing():
    both = timing([[1.0], [2.0]], [[3.0]])
    assert both.first_launches(1) == timing([[1.0], [2.0]])
    assert both.first_launches(2) == both
    assert both.first_launches(0) is None


def test_a_ratio_pairs_neighbours_in_time_so_that_drift_cancels():
    drift = [1.0, 1.5, 3.0, 2.0, 1.2, 5.0, 1.1, 0.9]
    reference = timing([[2 * d] for d in drift])
    rival = timing([[1 * d] for d in drift])
    ratio = speed_ratio(reference, rival)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_round_that_one_sat_out_pairs_with_nothing():
    reference = timing([[2.0], [9.0], [2.0]] * 4)
    rival = timing([[1.0], [], [1.0]] * 4)
    assert speed_ratio(reference, rival) == speed_ratio(timing([[2.0], [2.0]] * 4), timing([[1.0], [1.0]] * 4))
    assert speed_ratio(reference, rival).value == pytest.approx(2)
    with pytest.raises(ValueError, match="no round has both"):
        speed_ratio(timing([[1.0], []]), timing([[], [1.0]]))


def test_fewer_than_six_rounds_over_all_launches_give_no_interval():
    five, six = timing([[1.0]] * 3, [[1.0]] * 2), timing([[1.0]] * 3, [[1.0]] * 3)
    assert speed_ratio(five, five) == Interval(1.0)
    assert speed_ratio(six, six) == Interval(1.0, 1.0, 1.0)
    assert five.intervals == {}
    assert six.intervals["p50"] == (1.0, 1.0)


def test_an_interval_contains_what_lies_between_its_bounds_and_everything_without_them():
    assert Interval(1.1, 1.0, 1.2).contains(1.0)
    assert not Interval(1.1, 1.01, 1.2).contains(1.0)
    assert Interval(3.0).contains(1.0)
    assert Interval.from_json(Interval(1.0, 0.5, 2.0).to_json()) == Interval(1.0, 0.5, 2.0)
