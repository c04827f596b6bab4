"""What verdicts are drawn from: which rows can be held against each other, and by how much they differ."""

import math
from collections.abc import Iterator

from toolkit.benchmarking.timing import Interval, speed_ratio
from toolkit.comparison.accuracy.paired import paired_interval
from toolkit.comparison.records.record import Comparison, Row


class Measured:
    """A comparison's rows, and the differences between any two of one run; a ratio is computed once.

    Args:
        comparison: of one run, or several merged.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self._ratios: dict[tuple[str, str, int], Interval] = {}

    def groups(self) -> Iterator[list[Row]]:
        """The rows of each run: only those took turns with each other."""
        for machine in range(len(self.comparison.machines)):
            if rows := [row for row in self.comparison.rows if row.machine == machine]:
                yield rows

    def rivals(self, row: Row) -> list[Row]:
        """The other rows of its run."""
        return [other for other in self.comparison.rows if other.machine == row.machine and other.name != row.name]

    def reference_of(self, row: Row) -> Row | None:
        """The row that its accuracy is held against."""
        name = self.comparison.reference_of(row)
        return next((other for other in self.comparison.rows if other.name == name), None)

    def ratio(self, row: Row, other: Row, batch: int) -> Interval | None:
        """How many times the speed of ``other`` this row has at a batch size, from their turns.

        Returns:
            None where one of them wasn't timed, or where they took no turns together.
        """
        if batch not in row.speeds or batch not in other.speeds or row.machine != other.machine:
            return None
        for held, base, turned in ((row, other, False), (other, row, True)):
            stored = held.speeds[batch].ratio
            if stored is not None and base.name == self.comparison.reference_of(held):
                return _inverse(stored) if turned else stored  # the very one that tables show
        if (other.name, row.name, batch) in self._ratios:
            return _inverse(self._ratios[other.name, row.name, batch])
        key = (row.name, other.name, batch)
        if key not in self._ratios:
            one, two = row.speeds[batch].timing, other.speeds[batch].timing
            try:
                self._ratios[key] = speed_ratio(two, one)
            except ValueError:  # no round has both
                return None
        return self._ratios[key]

    def drop(self, row: Row) -> Interval | None:
        """The reference's top-1 rate minus this row's; None where either isn't known."""
        reference = self.reference_of(row)
        return None if reference is None else self.difference(reference, row)

    def difference(self, row: Row, other: Row) -> Interval | None:
        """Top-1 rate of ``row`` minus that of ``other`` on the same images, with a 95 % interval.

        Against the reference it is the paired interval of the record. Of two others the discordant images aren't in
        the record, but they are at most those that either has with the reference: the interval is of that many, and
        so rather too wide than too narrow. A record without paired counts gives the interval for two separate samples
        (Newcombe 1998, method 10), which is wider still.
        """
        one, two = row.accuracy, other.accuracy
        if one is None or two is None or row.machine != other.machine or one.top1.total != two.top1.total:
            return None
        if row.name == other.name:
            return Interval(0.0, 0.0, 0.0)
        total, more = one.top1.total, one.top1.count - two.top1.count
        discordant = self._discordant(row), self._discordant(other)
        if discordant[0] is None or discordant[1] is None:
            return _separate(one.top1.interval, two.top1.interval, one.top1.rate, two.top1.rate)
        count = max(discordant[0] + discordant[1], abs(more))
        count += (count - more) % 2  # halves are no images
        low, high = paired_interval((count + more) // 2, (count - more) // 2, total)
        return Interval(more / total, low, high)

    def _discordant(self, row: Row) -> int | None:
        """Images on which exactly one of this row and the reference is right."""
        if row.name == self.comparison.reference_of(row):
            return 0
        against = row.accuracy.against if row.accuracy else None
        return None if against is None else against.helped + against.hurt


def surely_faster(ratio: Interval | None) -> bool:
    """Whether the whole interval of a speed ratio lies above 1."""
    return ratio is not None and ratio.low is not None and ratio.low > 1


def surely_slower(ratio: Interval | None) -> bool:
    """Whether the whole interval of a speed ratio lies below 1."""
    return ratio is not None and ratio.high is not None and ratio.high < 1


def _inverse(ratio: Interval) -> Interval:
    if ratio.low is None or ratio.high is None:
        return Interval(1 / ratio.value)
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _separate(first: tuple[float, float], second: tuple[float, float], one: float, two: float) -> Interval:
    low = math.hypot(one - first[0], second[1] - two)
    high = math.hypot(first[1] - one, two - second[0])
    return Interval(one - two, max(-1.0, one - two - low), min(1.0, one - two + high))
