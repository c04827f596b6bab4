"""Why a narrower precision is no faster here: what the record itself shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.benchmarking.timing import Interval
from toolkit.comparison.figures import ratios
from toolkit.comparison.layers import WIDTHS
from toolkit.comparison.records.record import Row, Verdict
from toolkit.comparison.verdicts.measured import Measured, surely_faster, surely_slower
from toolkit.comparison.verdicts.reasons import Case, is_wide, reasons_of, unknown_reason


@dataclass(frozen=True)
class _Held:
    """A row held against a wider one: its speed as a multiple of that one's, where it isn't surely faster."""

    wider: Row
    ratios: Mapping[int, Interval]


def no_faster(measured: Measured, rows: list[Row]) -> Iterator[Verdict]:
    """A verdict for each of these rows of one run that a wider precision of the same model is as fast as.

    Only rows of one backend and one device are held against each other. Of several wider ones the one counts that it
    fails to beat at the most batch sizes, and of those the next wider.
    """
    for row in rows:
        held = [found for wider in rows if (found := _held(measured, row, wider)) is not None]
        if held:
            yield _verdict(measured, row, max(held, key=lambda one: (len(one.ratios), -_width(one.wider))))


def _held(measured: Measured, row: Row, wider: Row) -> _Held | None:
    if not (_width(wider) > _width(row) >= 0 and _same_place(row, wider) and _same_model(row, wider)):
        return None
    ratios = {batch: found for batch in row.speeds if (found := measured.ratio(row, wider, batch)) is not None}
    # Without an interval nothing is said of what looks faster.
    slow = {
        batch: one
        for batch, one in ratios.items()
        if not surely_faster(one) and (one.low is not None or one.value < 1)
    }
    return _Held(wider, slow) if slow else None


def _width(row: Row) -> int:
    return WIDTHS.get(row.layers.precision, -1) if row.layers and row.failure is None else -1


def _same_place(row: Row, other: Row) -> bool:
    if row.opened is None or other.opened is None:
        return False
    one, two = row.opened.info, other.opened.info
    return (one.backend, one.device) == (two.backend, two.device)


def _same_model(row: Row, other: Row) -> bool:
    """Whether nothing says that they are two models: architecture, and the checkpoint in both passports."""
    if None not in {row.architecture, other.architecture} and row.architecture != other.architecture:
        return False
    sources = [(one.passport or {}).get("sources", {}).get("checkpoint") for one in (row, other)]
    return None in sources or sources[0] == sources[1]


def _verdict(measured: Measured, row: Row, held: _Held) -> Verdict:
    assert row.layers is not None  # noqa: S101 - both have a width
    assert held.wider.layers is not None  # noqa: S101
    precision, wider = row.layers.precision.upper(), held.wider.layers.precision.upper()
    case = Case(measured, row, held.wider, held.ratios)
    reasons = list(reasons_of(case)) or [unknown_reason(case)]
    how = "slower" if all(map(surely_slower, held.ratios.values())) else "no faster"
    if how == "no faster" and all(is_wide(one) for one in held.ratios.values()):
        how = "not measurably faster"
    why = "; ".join(reason.text for reason in reasons)
    known = reasons[0].key != "unknown"
    text = (
        f"{precision} is {how} than {wider} here "
        f"({ratios(held.ratios, f' the speed of {held.wider.name}')}){', because ' if known else '; '}{why}"
    )
    use = next((reason.remedy for reason in reasons if reason.remedy), "")
    facts: dict[str, Any] = {
        "precision": row.layers.precision,
        "than": held.wider.name,
        "than_precision": held.wider.layers.precision,
        "ratios": {str(batch): one.to_json() for batch, one in held.ratios.items()},
        "reasons": [{"reason": reason.key, "text": reason.text, **reason.facts} for reason in reasons],
        "remedy": use,
    }
    return Verdict("no-faster", row.name, f"{text}. {use}" if use else text, facts)
