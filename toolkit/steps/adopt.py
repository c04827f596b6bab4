"""Take the ranges of a graph's tensors over from what another tool, or an earlier export, says of them."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import GraphError, InputError
from engines.files import unreadable
from engines.optional import require
from toolkit.building.ranges import made_from, table_path
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable

_SOURCES = "give a graph with Q/DQ nodes (.onnx), a TensorRT calibration cache, or a toolkit .calibration.json"


def adopt(
    graph: str | PathLike[str],
    source: str | PathLike[str],
    *,
    output: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    force: bool = False,
) -> "CalibrationTable":
    """Write the calibration table of a master graph from ranges that exist already; nothing is measured.

    Args:
        graph: the FP32 master graph.
        source: what says the ranges: a quantised graph of any tool that was made from ``graph``, a TensorRT
            calibration cache of it, or a table of an earlier export with the same weights.
        output: the table to write; None writes ``model.calibration.json`` beside ``model.onnx``
            (``model.fp8.calibration.json`` for ranges of FP8).
        cache: a TensorRT calibration cache (8 to 10) to write as well.
        force: replace an output that was made from another graph.

    Returns:
        The table that was written. Its facts tell the source, and what the source doesn't say.

    Raises:
        InputError: a file can't be read, ``source`` is none of these, or the output was made from something else.
        TableError: the source belongs to another network or other weights, or lacks a tensor: it is named.
        GraphError: a graph is damaged, or ``graph`` is quantised already.
    """
    require("onnx", "Taking ranges over", "onnxruntime")
    from export.graph import load_graph, weights_digest
    from toolkit.steps.calibration_cache import check_cache, write_table

    path, given = Path(graph), Path(source)
    kind = _kind(given)
    model = load_graph(path)
    if kind == "graph" and given.resolve() == path.resolve():
        raise InputError(f"'{path}' is both the master graph and the source of its ranges", _SOURCES)
    table = {"graph": _from_graph, "cache": _from_cache, "table": _from_table}[kind](given, model)
    if cache is not None:
        check_cache(Path(cache), table.precision, force=force)
    target = Path(output) if output is not None else table_path(path, table.precision)
    check_replace(target, weights_digest(model), made_from, force=force)
    write_table(table, target, path, Path(cache) if cache is not None else None)
    return table


def _kind(path: Path) -> str:
    """What ``path`` is: "graph", "cache" or "table"."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise unreadable(path, error) from error
    if start.startswith(b"TRT-"):
        return "cache"
    if start.startswith(b"{"):
        return "table"
    if path.suffix.lower() == ".onnx" or start.startswith(b"\x08"):  # a ModelProto begins with its ir_version
        return "graph"
    raise InputError(f"'{path}' holds no ranges that toolkit can read", _SOURCES)


def _from_graph(path: Path, model: "onnx.ModelProto") -> "CalibrationTable":
    from calibration.foreign import take_over
    from export.graph import load_graph, read_derived

    foreign = load_graph(path)
    if read_derived(foreign) is not None:
        raise GraphError(
            f"'{path}' was made by this toolkit from a calibration table", "give that table: its ranges are exact"
        )
    return _named(take_over(foreign, model, name=f"'{path}'"), path)


def _from_cache(path: Path, model: "onnx.ModelProto") -> "CalibrationTable":
    from calibration.cache import read_tensorrt_cache
    from calibration.foreign import match_names

    return _named(match_names(read_tensorrt_cache(path), model, name=f"'{path}'"), path)


def _from_table(path: Path, model: "onnx.ModelProto") -> "CalibrationTable":
    from calibration.ranges import refuse_typed
    from calibration.rename import rename
    from calibration.table import CalibrationTable

    refuse_typed(model)
    return _named(rename(CalibrationTable.read(path), model), path)


def _named(table: "CalibrationTable", path: Path) -> "CalibrationTable":
    """The table with the name of its source among its facts."""
    kind = table.facts.get("source")
    return replace(table, facts={**table.facts, "source": f"{path.name}: {kind}" if kind else path.name})
