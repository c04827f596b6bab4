import pytest

from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.saturation import LARGEST, Sweep, gain, saturation
from toolkit.benchmarking.timing import Timing


def at(batch: int, images_per_second: float, *, spread: float = 0.0, turns: int = 10) -> Timing:
    """Ten turns of one run each that alternate about what was asked for."""
    seconds = batch / images_per_second
    blocks = [Block((seconds * (1 + (spread if turn % 2 else -spread)),)) for turn in range(turns)]
    return Timing.of(batch, [blocks])


def sizes(rates: "dict[str, list[float]]", **options) -> list[int]:
    """The sizes of a sweep over rivals of known throughput, size by size; the last holds for all larger ones."""
    sweep, found = Sweep(), []
    while (size := sweep.size) is not None:
        number = len(found)
        found.append(size)
        timings = {
            name: at(size, values[min(number, len(values) - 1)], **options)
            for name, values in rates.items()
            if values[min(number, len(values) - 1)]
        }
        sweep.measured(timings)
    return found


def test_sizes_double_until_no_rivals_throughput_grows():
    assert sizes({"a": [100, 150, 200, 201]}) == [1, 2, 4, 8]
    assert sizes({"a": [100, 100], "b": [100, 150, 200, 250, 255]}) == [1, 2, 4, 8, 16]


def test_what_once_stopped_growing_does_not_begin_again():
    assert sizes({"a": [100, 101, 300, 900]}) == [1, 2]


def test_two_gains_within_the_noise_are_none():
    assert sizes({"a": [100, 110, 121, 133]}, spread=0.3) == [1, 2, 4]
    assert sizes({"a": [100, 110, 110]}, spread=0.001) == [1, 2, 4]


def test_too_few_turns_for_an_interval_leave_the_gain_itself():
    assert sizes({"a": [100, 150, 200, 201]}, turns=2) == [1, 2, 4, 8]


def test_no_batch_is_tried_that_would_take_more_than_a_second():
    assert sizes({"a": [4, 6, 8, 10, 12]}) == [1, 2, 4, 8]  # 8 / 10 s, and twice as long at most for 16


def test_sizes_that_nobody_takes_at_first_are_passed_over_and_those_that_nobody_takes_any_more_end_it():
    assert sizes({"a": [0, 0, 400, 800, 0]}) == [1, 2, 4, 8, 16]


def test_it_ends_when_there_is_no_room_for_more_and_at_the_largest_size():
    sweep = Sweep()
    sweep.measured({"a": at(1, 100)}, room=False)
    assert sweep.size is None
    assert sizes({"a": [10000 * 2**power for power in range(20)]})[-1] == LARGEST


def test_a_gain_is_of_throughput():
    found = gain(at(4, 100), at(8, 150))
    assert found.value == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)


def test_saturation_is_the_smallest_size_near_the_best():
    assert saturation({1: at(1, 100), 8: at(8, 198), 32: at(32, 200)}) == 8
    assert saturation({}) is None
