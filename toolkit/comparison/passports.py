"""What was measured of an engine is written into its passport."""

from pathlib import Path
from typing import Any

from engines.errors import ToolkitError
from engines.passport import find_passport, passport_path
from toolkit.comparison.record import Comparison, Row


def record_measurements(comparison: Comparison) -> tuple[str, ...]:
    """Write each measured row into the passport beside its engine, where there is one.

    A passport of another version of the file, one that is damaged, and a folder that can't be written
    to are left alone: the comparison itself stands.

    Returns:
        A line for each passport that should have been updated and wasn't.
    """
    problems = []
    for row in comparison.rows:
        if row.failure is not None or (row.accuracy is None and not row.speeds):
            continue
        path = Path(row.path)
        try:
            passport = find_passport(path)
            if passport is None:
                continue
            if passport.digest != row.digest:
                problems.append(f"the passport of '{row.name}' is of another file; its measurements were left alone")
                continue
            passport.with_measurements(**measurements(comparison, row)).write(passport_path(path))
        except ToolkitError as error:
            problems.append(f"the passport of '{row.name}' was not updated: {error.cause}")
    return tuple(problems)


def measurements(comparison: Comparison, row: Row) -> dict[str, Any]:
    """A passport's ``accuracy`` and ``speed``: the summary of one row, without its raw times."""
    context = {"measured": comparison.created, "machine": str(comparison.machine)}
    found: dict[str, Any] = {}
    if row.accuracy is not None and comparison.data is not None:
        found["accuracy"] = {
            **context,
            "data": comparison.data.to_json(),
            "reference": comparison.reference,
            **row.accuracy.to_json(),
        }
    if row.speeds:
        speeds = [speed.to_json() for speed in row.speeds.values()]
        for speed in speeds:
            del speed["block_seconds"]
        device = row.opened.info.device if row.opened else ""
        found["speed"] = {**context, "device": device, "reference": comparison.reference, "batches": speeds}
    return found
