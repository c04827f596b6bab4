"""The best of several rows for a goal; of those that can't be told apart the smallest file, not the luckiest run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.comparison.goal import Goal
from toolkit.comparison.records.record import Row
from toolkit.comparison.verdicts.measured import Measured

SAME_SIZE = 1.02
"""Files whose sizes differ by less than this factor are equally large."""


@dataclass(frozen=True)
class Choice:
    """The row taken.

    Attributes:
        row: which one.
        batches: the batch sizes that decided.
        level: the others that can't be told from it.
    """

    row: Row
    batches: tuple[int, ...]
    level: tuple[Row, ...] = ()


def fastest(measured: Measured, rows: Sequence[Row], goal: Goal) -> Choice | None:
    """The fastest of these rows in the sense of the goal; None where none was timed at the goal's batch size."""
    if goal.aim == "throughput" and goal.batch is None:
        return _most_images(measured, rows)
    sizes = _decisive(rows, goal)
    timed = [row for row in rows if sizes and all(batch in row.speeds for batch in sizes)]
    if not timed:
        return None
    best = min(timed, key=lambda row: math.prod(row.speeds[batch].timing.p50 for batch in sizes))

    def level(row: Row) -> bool:
        ratios = [measured.ratio(best, row, batch) for batch in sizes]
        return all(one is not None and one.contains(1) for one in ratios)  # without an interval nothing is told apart

    return _smallest(measured, best, timed, lambda _: sizes, level)


def _decisive(rows: Sequence[Row], goal: Goal) -> tuple[int, ...]:
    """The batch sizes that decide: the goal's, else the smallest for latency, else all that the rows share."""
    sizes = sorted({batch for row in rows for batch in row.speeds})
    if goal.batch is not None:
        return (goal.batch,) if goal.batch in sizes else ()
    if goal.aim == "latency":
        return tuple(sizes[:1])
    shared = [batch for batch in sizes if all(batch in row.speeds for row in rows if row.speeds)]
    return tuple(shared or sizes[:1])


def _most_images(measured: Measured, rows: Sequence[Row]) -> Choice | None:
    peaks = {row.name: _peak(row) for row in rows if row.speeds}
    timed = [row for row in rows if row.name in peaks]
    if not timed:
        return None
    best = max(timed, key=lambda row: row.speeds[peaks[row.name]].timing.images_per_second)

    def level(row: Row) -> bool:
        if peaks[row.name] == peaks[best.name]:
            found = measured.ratio(best, row, peaks[best.name])
            return found is not None and found.contains(1)
        # No turns of different batch sizes belong together, so their own intervals have to do.
        one, two = (r.speeds[peaks[r.name]].timing.intervals.get("images_per_second") for r in (best, row))
        return one is not None and two is not None and two[1] >= one[0]

    return _smallest(measured, best, timed, lambda row: (peaks[row.name],), level)


def _peak(row: Row) -> int:
    """The batch size at which it does the most images a second."""
    return max(row.speeds, key=lambda batch: row.speeds[batch].timing.images_per_second)


def _smallest(
    measured: Measured,
    best: Row,
    rows: Sequence[Row],
    sizes: Callable[[Row], tuple[int, ...]],
    level: Callable[[Row], bool],
) -> Choice:
    """Of those that can't be told from the best the smallest file; of equally large ones the most faithful.

    One that another of them beats in accuracy by more than chance isn't taken for its size. The most faithful is the
    one with the most images right, then with the fewest flips, then with the least KL divergence, then the one given
    first: all of it the same in the next run, as noise isn't.
    """
    fast = [row for row in rows if row.name == best.name or level(row)]
    equal = [row for row in fast if not any(_surely_better(measured, other, row) for other in fast)]
    least = min(row.size for row in equal)
    taken = min((row for row in equal if row.size <= SAME_SIZE * least), key=_unfaithful)
    return Choice(taken, sizes(taken), tuple(row for row in equal if row.name != taken.name))


def _surely_better(measured: Measured, row: Row, other: Row) -> bool:
    ahead = measured.difference(row, other)
    return ahead is not None and ahead.low is not None and ahead.low > 0


def _unfaithful(row: Row) -> tuple[int, int, float]:
    accuracy = row.accuracy
    if accuracy is None:
        return 0, 0, 0.0
    against = accuracy.against
    return -accuracy.top1.count, against.flips.count if against else 0, (against.kl or 0.0) if against else 0.0
