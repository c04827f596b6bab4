"""A calibration table: how it was made, a range a tensor, and what else it decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from calibration.table import CalibrationTable, TensorRange
from toolkit.inspection.report import Facts, Report, Table, flatten, short_digest

_TOLD = frozenset({"auto", "best", "held_out", "data", "split", "seed", "classes"})
"""Facts of a table that have words of their own here."""


def inspect_table(path: Path) -> Report:
    """Describe a calibration table.

    Raises:
        TableError: it is damaged or none.
    """
    table = CalibrationTable.read(path)
    rest = {name: value for name, value in table.facts.items() if name not in _TOLD}
    lists = {name: rows for name, rows in rest.items() if _is_list(rows)}
    measured = measured_best(table)
    facts = Facts(
        "calibration table",
        (
            ("file", str(path)),
            ("precision", table.precision),
            ("method", table.method),
            *([("measured best", measured)] if measured else []),
            *_images(table),
            ("weights", short_digest(table.weights)),
            ("preprocessing", short_digest(table.preprocess or "unknown")),
            ("tensors", str(len(table.ranges))),
            *_decided(table),
            *flatten({name: value for name, value in rest.items() if name not in lists}),
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
    tables = [_trials(table), *(_table(name, rows) for name, rows in lists.items())]
    return Report("table", path, (facts, *filter(None, tables), ranges), table.to_json())


def measured_best(table: CalibrationTable) -> str | None:
    """What "auto" measured of its choice, in a line; None where nothing was measured."""
    best = table.facts.get("best")
    if not isinstance(best, Mapping) or not {"name", "sqnr_db", "agreement"} <= best.keys():
        return None
    sqnr, agreement = _figures(best)
    labels = "" if best["agreement"] is None else f", {agreement} of labels as in FP32"
    return f"{best['name']}: {sqnr} dB SQNR{labels}{_held_out(table)}"


def _held_out(table: CalibrationTable) -> str:
    held = table.facts.get("held_out")
    what = "images" if table.preprocess else "samples"
    return f", on {held} held-out {what}" if held else ""


def _figures(trial: Mapping[str, Any]) -> tuple[str, str]:
    """The noise in dB, and the share of labels as in FP32, in percent."""
    sqnr, agreement = trial.get("sqnr_db"), trial.get("agreement")
    return (
        "-" if sqnr is None else f"{sqnr:.1f}" if isinstance(sqnr, float | int) else str(sqnr),
        f"{100 * agreement:.4g} %" if isinstance(agreement, float | int) else "-",
    )


def _trials(table: CalibrationTable) -> Table | None:
    """What "auto" measured, a candidate a row."""
    trials = table.facts.get("auto")
    if not _is_list(trials):
        return None
    return Table(
        f"what auto measured{_held_out(table)}",
        ("candidate", "SQNR dB", "labels as in FP32", "KL"),
        tuple((_cell(trial.get("name")), *_figures(trial), _cell(trial.get("kl"))) for trial in trials),
        frozenset({1, 2, 3}),
    )


def _images(table: CalibrationTable) -> list[tuple[str, str]]:
    """What was seen; of a table whose ranges were taken over nothing is known."""
    facts = table.facts
    if not table.images:
        return []
    name, split, seed, classes = (facts.get(key) for key in ("data", "split", "seed", "classes"))
    parts = [
        f"{table.images}" + (f" of {name}" if name else ""),
        *([f"{split} split"] if split else []),
        *([f"seed {seed}"] if seed is not None else []),
        *([f"{classes} classes"] if classes else []),
    ]
    what, values = ("images", "pixels") if table.preprocess else ("samples", "values")
    return [(what, ", ".join(parts)), (values, short_digest(table.data or "unknown"))]


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


def _is_list(value: object) -> TypeGuard[list[Mapping[str, Any]]]:
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
