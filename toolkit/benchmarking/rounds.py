"""Rivals measured in turns: round by round, a short block each, everyone else idle."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines.errors import ToolkitError
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.timing import Timing


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        seconds: timed running of one artifact at one batch size, over all rounds.
        rounds: turns of each artifact; 6 are needed for an interval of a speed ratio.
        warm_seconds: untimed running before the first round.
        seed: of the order of turns.
    """

    seconds: float = 1.0
    rounds: int = 10
    warm_seconds: float = 0.3
    seed: int = 0


def take_turns(
    workers: Mapping[str, WorkerProcess],
    batch: int,
    pace: Pace,
    failed: Callable[[str, ToolkitError], None],
    advanced: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time every worker at one batch size.

    Every two rounds run in a shuffled order and its reverse, so that each artifact comes before and
    after each rival equally often, and what one leaves behind (heat, caches) falls on all alike.

    Args:
        workers: by name; each takes this batch size.
        batch: images a run.
        pace: how long.
        failed: told of a worker that failed or died, which takes no further part.
        advanced: called after every turn.

    Returns:
        The timing of each that took all its turns.
    """
    going = list(workers)
    blocks: dict[str, list[Block]] = {name: [] for name in workers}
    rng = random.Random(pace.seed)  # noqa: S311 - an order, not a secret

    def turn(name: str, action: Callable[[], Block | int]) -> Block | int | None:
        try:
            return action()
        except ToolkitError as error:
            going.remove(name)
            failed(name, error)
            return None

    for name in tuple(going):
        turn(name, lambda name=name: workers[name].warm(batch, pace.warm_seconds))  # type: ignore[misc]
    order = list(going)
    for number in range(pace.rounds):
        if number % 2:
            order.reverse()
        else:
            rng.shuffle(order)
        for name in order:
            if name in going:
                block = turn(name, lambda name=name: workers[name].block(batch, pace.seconds / pace.rounds))  # type: ignore[misc]
                if isinstance(block, Block):
                    blocks[name].append(block)
            advanced()
    return {name: Timing.of(batch, blocks[name]) for name in going}
