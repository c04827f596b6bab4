"""The calibration table for a quantised build: given, or found beside the graph."""

from pathlib import Path

from calibration.table import SUFFIX, CalibrationTable
from engines.errors import InputError, TableError


def table_path(graph: Path, precision: str) -> Path:
    """Where a graph's table lies: ``model.calibration.json`` for INT8, ``model.fp8.calibration.json`` for FP8."""
    middle = "" if precision == "int8" else f".{precision}"
    return graph.with_name(graph.name.removesuffix(".onnx") + middle + SUFFIX)


def table_for(graph: Path, table: Path | None, precision: str = "int8", *, measures: bool = True) -> CalibrationTable:
    """The table to place Q/DQ from: given, or beside the graph.

    Args:
        graph: the master graph's file.
        table: a table to use; None takes the one beside the graph.
        precision: "int8" or "fp8": what the ranges must have been chosen for.
        measures: whether the caller would calibrate, if it were given data.

    Raises:
        InputError: there is none: nothing is calibrated on made-up images.
        TableError: the table is damaged, or its ranges were chosen for another precision.
    """
    beside = table_path(graph, precision)
    asking = "" if precision == "int8" else f" --{precision}"
    if table is None and not beside.is_file():
        raise InputError(
            f"{precision.upper()} needs calibration, and there is no '{beside.name}' beside the graph",
            f"{'give --data DATA, or ' if measures else ''}run: toolkit calibrate {graph} --data DATA{asking}",
        )
    found = CalibrationTable.read(table or beside)
    if found.precision != precision:
        raise TableError(
            f"'{table or beside}' holds ranges chosen for {found.precision.upper()}, not for {precision.upper()}",
            f"run: toolkit calibrate {graph} --data DATA{asking}"
            + (f"; or build with --{found.precision}" if measures else ""),
        )
    return found


def made_from(path: Path) -> str | None:
    """The digest of the weights that an existing table was made from; None where it is no table."""
    try:
        return CalibrationTable.read(path).weights
    except TableError:
        return None
