"""Rivals measured in turns: round by round, a short block each, everyone else idle."""

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from engines.errors import ToolkitError
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.timing import Timing

LEAST_ROUNDS = 4
"""Rounds of a launch that even an artifact takes part in whose run is longer than a turn: of two launches that is 8,
the fewest of which the smallest and the largest hold their median between them in 99 %."""

FEW, MANY_SECONDS, MANY_ROUNDS = 4, 0.5, 20
"""How many artifacts are few, and the pace of more."""


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        seconds: timed running of one artifact at one batch size, over all rounds of all launches.
        rounds: turns of each artifact, over all launches; one whose run is longer than a turn takes fewer.
        warm_seconds: untimed running of a new process before its first round.
        seed: of the order of turns.
        launches: how often every process is started anew; each has its part of the rounds.
    """

    seconds: float = 1.0
    rounds: int = 40
    warm_seconds: float = 0.2
    seed: int = 0
    launches: int = 2

    @classmethod
    def of(
        cls,
        artifacts: int,
        seconds: float | None = None,
        rounds: int | None = None,
        launches: int | None = None,
        seed: int = 0,
    ) -> "Pace":
        """The pace for so many artifacts; what is None is the default, which is shorter for more than ``FEW``.

        Two that are compared with each other want narrow intervals; of many the slow ones are far apart anyway.
        """
        few = artifacts <= FEW
        seconds = (cls.seconds if few else MANY_SECONDS) if seconds is None else seconds
        rounds = (cls.rounds if few else MANY_ROUNDS) if rounds is None else rounds
        return cls(
            seconds, rounds, min(cls.warm_seconds, seconds), seed, cls.launches if launches is None else launches
        )

    @property
    def turn(self) -> float:
        """Seconds of one turn."""
        return self.seconds / self.rounds

    @property
    def starts(self) -> int:
        """How often every process is really started: each launch has a round."""
        return min(self.launches, self.rounds)

    def rounds_of(self, launch: int) -> int:
        """The rounds that are this launch's part, counted from 0."""
        return self.rounds // self.launches + (launch < self.rounds % self.launches)


class Rival(Protocol):
    """What takes turns: a :class:`toolkit.benchmarking.process.WorkerProcess`, or what measures like one."""

    def warm(self, batch: int, seconds: float) -> int:
        """Run untimed."""

    def block(self, batch: int, seconds: float) -> Block:
        """Run timed."""


def take_turns(
    workers: Mapping[str, Rival],
    batch: int,
    pace: Pace,
    failed: Callable[[str, ToolkitError], None],
    advanced: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time processes that are open already at one batch size, all rounds in this one launch.

    Arguments as of :func:`launch_turns`.

    Returns:
        The timing of each that took all its turns.
    """
    blocks = launch_turns(workers, batch, replace(pace, launches=1), failed, advanced)
    return {name: Timing.of(batch, [turns]) for name, turns in blocks.items()}


def launch_turns(
    workers: Mapping[str, Rival],
    batch: int,
    pace: Pace,
    failed: Callable[[str, ToolkitError], None],
    advanced: Callable[[], None] = lambda: None,
    launch: int = 0,
    *,
    warm: Collection[str] = (),
) -> dict[str, list[Block]]:
    """Time every worker at one batch size for one launch's part of the rounds.

    Every two rounds run in a shuffled order and its reverse, so that each artifact comes before and
    after each rival equally often, and what one leaves behind (heat, caches) falls on all alike.

    Args:
        workers: by name; each takes this batch size.
        batch: images a run.
        pace: how long.
        failed: told of a worker that failed or died, which takes no further part.
        advanced: called after every turn, taken or not.
        launch: which, from 0.
        warm: those that have just run at another batch size.

    Returns:
        For each that took all its turns, a block a round; it is empty where it sat the round out.
    """
    going = list(workers)
    rounds = pace.rounds_of(launch)
    blocks: dict[str, list[Block]] = {name: [] for name in workers}
    fastest: dict[str, float] = {}
    rng = random.Random(f"{pace.seed}/{launch}/{batch}")  # noqa: S311 - an order, not a secret

    def turn(name: str, action: Callable[[], Block | int]) -> Block | int | None:
        try:
            return action()
        except ToolkitError as error:
            going.remove(name)
            failed(name, error)
            return None

    for name in tuple(going):
        # Of another batch size a process needs memory, which one run takes; each turn begins with untimed runs.
        seconds = 0.0 if name in warm else pace.warm_seconds
        turn(name, lambda name=name, seconds=seconds: workers[name].warm(batch, seconds))  # type: ignore[misc]
    order = list(going)
    for number in range(rounds):
        if number % 2:
            order.reverse()
        else:
            rng.shuffle(order)
        for name in order:
            if name not in going:
                pass
            elif name in fastest and number not in rounds_for(fastest[name], rounds, pace.turn):
                blocks[name].append(Block(()))
            else:
                block = turn(name, lambda name=name: workers[name].block(batch, pace.turn))  # type: ignore[misc]
                if isinstance(block, Block):
                    blocks[name].append(block)
                    fastest[name] = min(fastest.get(name, math.inf), *block.seconds)
            advanced()
    return {name: blocks[name] for name in going}


def rounds_for(seconds: float, rounds: int, turn: float) -> frozenset[int]:
    """The rounds that an artifact takes part in: all, or where one run is longer than a turn, fewer.

    Then it takes so many that all its turns together take as long as those of the others, and no fewer than
    ``LEAST_ROUNDS``: whole pairs of a round and its reverse, far apart. Those of a slower artifact are always among
    those of a faster one, so that as many rounds have both as the slower one takes.

    Args:
        seconds: of one run, the fastest so far: a burst of other work in the first turn costs no rounds.
        rounds: there are.
        turn: seconds of a turn.
    """
    wanted = rounds if seconds <= turn else max(LEAST_ROUNDS, int(rounds * turn / seconds))
    chosen: list[int] = []
    for pair in sorted(range((rounds + 1) // 2), key=_van_der_corput):
        if len(chosen) >= wanted:
            break
        chosen += [number for number in (2 * pair, 2 * pair + 1) if number < rounds]
    return frozenset(chosen)


def _van_der_corput(number: int) -> float:
    """The number's binary digits mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, ... which any beginning of spreads."""
    value, share = 0.0, 0.5
    while number:
        value += share * (number & 1)
        number >>= 1
        share /= 2
    return value
