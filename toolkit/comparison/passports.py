"""What was measured of an engine is written into its passport."""

from pathlib import Path
from typing import Any

from engines.errors import ToolkitError
from engines.passport import Passport, find_passport, passport_path
from toolkit.comparison.records.record import Comparison, Row

_UNTOLD = frozenset({"seen"})
"""Facts of a calibration that say nothing to people: a filter that knows the images it has seen."""

_LONG = ("confusion", "confidence", "disagreements")
"""What of an accuracy stays in the record alone."""


def record_measurements(comparison: Comparison) -> tuple[str, ...]:
    """Write each measured row into the passport beside its engine, where there is one.

    A passport of another version of the file, one that is damaged, and a folder that can't be written
    to are left alone: the comparison itself stands.

    Returns:
        A line for each passport that should have been updated and wasn't.
    """
    problems = []
    for row in comparison.rows:
        if row.failure is not None or (row.accuracy is None and row.fidelity is None and not row.speeds):
            continue
        path = Path(row.path)
        try:
            passport = find_passport(path)
            if passport is None:
                continue
            if row.opened is not None and row.opened.info.backend != passport.backend:
                continue  # measured in another backend ("model.onnx@openvino") than the one that it was made for
            if passport.digest != row.digest:
                problems.append(f"the passport of '{row.name}' is of another file; its measurements were left alone")
                continue
            passport.with_measurements(**measurements(comparison, row)).write(passport_path(path))
        except ToolkitError as error:
            problems.append(f"the passport of '{row.name}' was not updated: {error.cause}")
    return tuple(problems)


def passport_of(row: Row) -> dict[str, Any] | None:
    """What a record keeps of the passport beside a row's engine; None without one, or with one of another file.

    Measurements, the list of layers and the names of all classes are left out: the first are what the record is for,
    the others are long, and beside the engine.
    """
    try:
        passport = find_passport(Path(row.path))
    except ToolkitError:
        return None
    if passport is None or passport.digest != row.digest:
        return None
    return _short(passport)


def _short(passport: Passport) -> dict[str, Any]:
    facts = passport.to_json()
    del facts["measurements"], facts["layers"]
    if facts["metadata"] is not None:
        facts["metadata"] = {name: value for name, value in facts["metadata"].items() if name != "labels"}
    if facts["calibration"] is not None:
        facts["calibration"] = {name: value for name, value in facts["calibration"].items() if name not in _UNTOLD}
    return facts


def measurements(comparison: Comparison, row: Row) -> dict[str, Any]:
    """A passport's ``accuracy`` and ``speed``: the summary of one row, without its raw times.

    Each says when and where it was measured: the machine, its driver, the session's device and library.
    """
    info = row.opened.info if row.opened else None
    drivers = {str(gpu["driver"]) for gpu in comparison.machine.gpus if gpu.get("driver")}
    context = {
        "measured": comparison.created,
        "machine": str(comparison.machine),
        "device": info.device if info else "",
        "provider": info.provider if info else "",
        **({"driver": ", ".join(sorted(drivers))} if drivers else {}),
    }
    found: dict[str, Any] = {}
    if row.accuracy is not None and comparison.data is not None:
        found["accuracy"] = {
            **context,
            "data": comparison.data.to_json(),
            "reference": comparison.reference,
            **{name: value for name, value in row.accuracy.to_json().items() if name not in _LONG},
        }
    if row.fidelity is not None and comparison.data is not None and row.name != comparison.reference:
        data = comparison.data.to_json()
        found["fidelity"] = {**context, "data": data, "reference": comparison.reference, **row.fidelity.to_json()}
    if row.speeds:
        speeds = [speed.to_json() for speed in row.speeds.values()]
        for speed in speeds:
            del speed["run_seconds"]
        found["speed"] = {
            **context,
            "reference": comparison.reference,
            "open_seconds": row.opened.open_seconds if row.opened else None,
            "peak_resident_bytes": row.memory,
            "batches": speeds,
        }
    return found
