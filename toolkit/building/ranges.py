"""The calibration table for an INT8 build: given, found beside the graph, or measured now."""

from collections.abc import Callable
from pathlib import Path

from calibration.table import SUFFIX, CalibrationTable
from engines.errors import InputError


def table_for(graph: Path, table: Path | None, measure: Callable[[], CalibrationTable] | None) -> CalibrationTable:
    """The table to place Q/DQ from.

    Args:
        graph: the master graph's file.
        table: a table to use; None takes the one beside the graph.
        measure: calibrates on the data that was given, and writes the table beside the graph; None without data.

    Raises:
        InputError: there is no table and no data: nothing is calibrated on made-up images. Or both are given.
        TableError: the table is damaged.
        DataError: the data can't be used.
    """
    if table is not None and measure is not None:
        raise InputError(
            "a table and data are given", "give --table to use its ranges, or --data to measure new ones"
        )
    if measure is not None:
        return measure()
    beside = graph.with_name(graph.name.removesuffix(".onnx") + SUFFIX)
    if table is None and not beside.is_file():
        raise InputError(
            f"INT8 needs calibration, and there is no '{beside.name}' beside the graph",
            f"give --data DATA, or run: toolkit calibrate {graph} --data DATA",
        )
    return CalibrationTable.read(table or beside)
