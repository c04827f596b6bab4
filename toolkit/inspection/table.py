"""A calibration table: how it was made, a range a tensor, and what else it decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.table import CalibrationTable, TensorRange
from toolkit.inspection.report import Facts, Report, Table, flatten, short_digest


def inspect_table(path: Path) -> Report:
    """Describe a calibration table.

    Raises:
        TableError: it is damaged or none.
    """
    table = CalibrationTable.read(path)
    lists = {name: rows for name, rows in table.facts.items() if _is_list(rows)}
    facts = Facts(
        "calibration table",
        (
            ("file", str(path)),
            ("precision", table.precision),
            ("method", table.method),
            ("images", str(table.images)),
            ("weights", short_digest(table.weights)),
            ("data", short_digest(table.data or "unknown")),
            ("preprocessing", short_digest(table.preprocess or "unknown")),
            ("tensors", str(len(table.ranges))),
            *_decided(table),
            *flatten({name: value for name, value in table.facts.items() if name not in lists}),
        ),
    )
    by_tensor = any(item.method for item in table.ranges.values())
    ranges = Table(
        "ranges",
        ("tensor", "amax", "smallest seen", "largest seen", "range cut off", *(["method"] if by_tensor else [])),
        tuple(
            (
                name,
                *(f"{value:.6g}" for value in (item.amax, item.minimum, item.maximum)),
                _clipped(item),
                *([item.method or table.method] if by_tensor else []),
            )
            for name, item in table.ranges.items()
        ),
        frozenset({1, 2, 3, 4}),
    )
    tables = [_table(name, rows) for name, rows in lists.items()]
    return Report("table", path, (facts, *tables, ranges), table.to_json())


def _decided(table: CalibrationTable) -> list[tuple[str, str]]:
    """What the table decides beside ranges; nothing of what it leaves as it is."""
    rows = []
    if table.weight_clip != "max":
        rows.append(("ranges of weights", f"by {table.weight_clip}"))
    for what, names in (
        ("kept unquantised", table.keep),
        ("tensors equalised", tuple(table.equalisation)),
        ("biases corrected", tuple(table.biases)),
    ):
        if names:
            rows.append((what, ", ".join(names)))
    return rows


def _is_list(value: object) -> bool:
    """Whether a fact is a list of things with the same properties."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _table(name: str, rows: list[Mapping[str, Any]]) -> Table:
    columns = tuple(dict.fromkeys(str(key) for row in rows for key in row))
    numbers = {place for place, column in enumerate(columns) if isinstance(rows[0].get(column), int | float)}
    return Table(
        name, columns, tuple(tuple(_cell(row.get(key)) for key in columns) for row in rows), frozenset(numbers)
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _clipped(item: TensorRange) -> str:
    """How much of the range that was seen lies beyond amax."""
    seen = max(abs(item.minimum), abs(item.maximum))
    return f"{max(0.0, 1 - item.amax / seen):.1%}" if seen else "0.0%"
