"""Artifacts that nobody needs here, since another one is better in one respect and no worse in the other."""

from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.benchmarking.timing import Interval
from toolkit.comparison.figures import listed, percent, ratios
from toolkit.comparison.records.record import Row, Verdict
from toolkit.comparison.verdicts.measured import Measured, surely_faster, surely_slower


@dataclass(frozen=True)
class _Beaten:
    """One row beaten by another.

    Attributes:
        ratios: the beaten one's speed as a multiple of the other's, at the batch sizes where it is beaten.
        ahead: top-1 rate of the better one minus its own.
        level: it is as fast, as far as the intervals tell, and surely less accurate.
    """

    by: Row
    ratios: dict[int, Interval]
    ahead: Interval
    level: bool


def dominated(measured: Measured, rows: list[Row]) -> Iterator[Verdict]:
    """A verdict for each of these rows of one run that another one dominates.

    At a batch size it is dominated by one that is faster (the interval of their ratio lies above 1) and no less
    accurate, or as fast within the interval and more accurate by more than chance; one that is faster at any other
    batch size has its use, and isn't. Of several the one counts that dominates at the most batch sizes, and of those
    the fastest. Without accuracy nothing is dominated: the slower one
    may be the more accurate. The reference is what the others are held against, and isn't judged.
    """
    for row in rows:
        if row.name == measured.comparison.reference_of(row):
            continue
        found = [beaten for other in rows if (beaten := _beaten(measured, row, other)) is not None]
        if found:
            yield _verdict(row, max(found, key=_clearly))


def _clearly(beaten: _Beaten) -> tuple[bool, int, float]:
    speeds = [1 / one.value for one in beaten.ratios.values()]
    return not beaten.level, len(speeds), sum(speeds) / len(speeds)


def _beaten(measured: Measured, row: Row, other: Row) -> _Beaten | None:
    if other.name == row.name or other.failure is not None:
        return None
    ahead = measured.difference(other, row)
    if ahead is None or ahead.value < 0:
        return None
    speeds = {batch: one for batch in row.speeds if (one := measured.ratio(row, other, batch)) is not None}
    if any(map(surely_faster, speeds.values())):
        return None
    slower = {batch: one for batch, one in speeds.items() if surely_slower(one)}
    if slower:
        return _Beaten(other, slower, ahead, level=False)
    equal = {batch: one for batch, one in speeds.items() if one.low is not None and one.contains(1)}
    if equal and ahead.low is not None and ahead.low > 0:
        return _Beaten(other, equal, ahead, level=True)
    return None


def _verdict(row: Row, beaten: _Beaten) -> Verdict:
    other, ahead = beaten.by, beaten.ahead
    assert row.accuracy is not None  # noqa: S101 - both were compared
    assert other.accuracy is not None  # noqa: S101
    less = "less" if ahead.value > 0 else "no more"
    speed = "no faster" if beaten.level else "slower"
    at = ratios(beaten.ratios, " its speed")
    rates = f"top-1 {percent(row.accuracy.top1)}"
    rates += f" against {percent(other.accuracy.top1)}" if ahead.value else " both"
    chance = ""
    if ahead.value > 0 and ahead.low is not None:
        chance = ", a difference that may be chance" if ahead.low <= 0 else ", a difference beyond chance"
    others = sorted(set(row.speeds) - set(beaten.ratios))
    where = f" (not at batch {listed(map(str, others))})" if others else ""
    text = f"{speed} and {less} accurate than {other.name}{where}: {at}; {rates}{chance}"
    facts = {
        "by": other.name,
        "ratios": {str(batch): one.to_json() for batch, one in beaten.ratios.items()},
        "top1": row.accuracy.top1.rate,
        "top1_by": other.accuracy.top1.rate,
        "ahead": ahead.to_json(),
        "elsewhere": others,
    }
    return Verdict("dominated", row.name, text, facts)
