from hypothesis import given
from hypothesis import strategies as st

from toolkit.benchmarking.launches import opening_order
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.rounds import LEAST_ROUNDS, Pace, launch_turns, rounds_for

TURN = 0.025


class Rival:
    """Takes turns of a known length without taking any time."""

    def __init__(self, seconds: float, turns: list[float]) -> None:
        self.seconds, self.turns, self.warmed = seconds, turns, list[float]()

    def warm(self, batch: int, seconds: float) -> int:
        self.warmed.append(seconds)
        return 1

    def block(self, batch: int, seconds: float) -> Block:
        self.turns.append(self.seconds)
        return Block((self.seconds,))


def play(*seconds: float, pace: Pace, launch: int = 0) -> "tuple[dict[str, list[Block]], list[float]]":
    turns: list[float] = []
    rivals = {str(time): Rival(time, turns) for time in seconds}
    return launch_turns(rivals, 1, pace, lambda *_: None, launch=launch), turns


def test_every_two_rounds_are_an_order_and_its_reverse_which_no_two_launches_share():
    pace = Pace(1.0, 40, launches=2)
    orders = []
    for launch in (0, 1):
        _, turns = play(0.001, 0.002, 0.003, pace=pace, launch=launch)
        rounds = [turns[at : at + 3] for at in range(0, len(turns), 3)]
        assert len(rounds) == 20
        assert all(first == second[::-1] for first, second in zip(rounds[::2], rounds[1::2], strict=True))
        orders.append(rounds)
    assert orders[0] != orders[1]


@given(st.integers(1, 60), st.floats(1e-5, 10), st.floats(1e-5, 10))
def test_the_rounds_of_a_slower_artifact_are_among_those_of_a_faster_one(rounds, one, other):
    slow, fast = (rounds_for(seconds, rounds, TURN) for seconds in (max(one, other), min(one, other)))
    assert slow <= fast
    assert min(LEAST_ROUNDS, rounds) <= len(slow) <= rounds
    assert slow <= set(range(rounds))


def test_one_whose_run_fits_into_a_turn_takes_part_in_all_rounds_and_a_longer_one_for_as_long_as_the_others():
    assert rounds_for(TURN, 20, TURN) == frozenset(range(20))
    assert len(rounds_for(2 * TURN, 20, TURN)) == 10
    assert len(rounds_for(100 * TURN, 20, TURN)) == LEAST_ROUNDS


def test_a_round_that_a_slow_artifact_sits_out_is_an_empty_turn():
    blocks, turns = play(0.001, 1.0, pace=Pace(0.5, 20, launches=1))
    assert [len(blocks[name]) for name in ("0.001", "1.0")] == [20, 20]
    assert sum(bool(block.seconds) for block in blocks["0.001"]) == 20
    assert sum(bool(block.seconds) for block in blocks["1.0"]) == turns.count(1.0) == LEAST_ROUNDS


@given(st.integers(1, 50), st.integers(1, 50))
def test_launches_share_the_rounds(rounds, launches):
    pace = Pace(1.0, rounds, launches=launches)
    parts = [pace.rounds_of(launch) for launch in range(launches)]
    assert sum(parts) == rounds
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)


def test_every_other_launch_opens_in_reverse():
    assert [opening_order(["a", "b", "c"], launch) for launch in range(3)] == [[*"abc"], [*"cba"], [*"abc"]]


def test_one_that_has_not_run_yet_is_warmed_up_though_its_rivals_have():
    old, new = Rival(0.001, []), Rival(0.001, [])
    launch_turns({"old": old, "new": new}, 8, Pace(0.1, 2, launches=1), lambda *_: None, warm={"old"})
    assert (old.warmed, new.warmed) == ([0.0], [Pace.warm_seconds])
