"""A calibration table: how it was made, and a range a tensor."""

from pathlib import Path

from calibration.table import CalibrationTable, TensorRange
from toolkit.inspection.report import Facts, Report, Table, flatten, short_digest


def inspect_table(path: Path) -> Report:
    """Describe a calibration table.

    Raises:
        TableError: it is damaged or none.
    """
    table = CalibrationTable.read(path)
    facts = Facts(
        "calibration table",
        (
            ("file", str(path)),
            ("method", table.method),
            ("images", str(table.images)),
            ("weights", short_digest(table.weights)),
            ("data", short_digest(table.data or "unknown")),
            ("preprocessing", short_digest(table.preprocess or "unknown")),
            ("tensors", str(len(table.ranges))),
            *flatten(table.facts),
        ),
    )
    ranges = Table(
        "ranges",
        ("tensor", "amax", "smallest seen", "largest seen", "range cut off"),
        tuple(
            (name, *(f"{value:.6g}" for value in (item.amax, item.minimum, item.maximum)), _clipped(item))
            for name, item in table.ranges.items()
        ),
        frozenset({1, 2, 3, 4}),
    )
    return Report("table", path, (facts, ranges), table.to_json())


def _clipped(item: TensorRange) -> str:
    """How much of the range that was seen lies beyond amax."""
    seen = max(abs(item.minimum), abs(item.maximum))
    return f"{max(0.0, 1 - item.amax / seen):.1%}" if seen else "0.0%"
