"""Puts a learned calibration table beside the graph that its checkpoint was exported to."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from calibration.table import CalibrationTable
    from export.onnxlib import onnx

KEY = "calibration"
"""Where a checkpoint's training record keeps the table of :meth:`toolkit.qat.Quantised.finish`."""


def write_learned_table(
    training: Mapping[str, Any] | None,
    model: "onnx.ModelProto",
    path: str | PathLike[str],
    *,
    force: bool = False,
) -> Path | None:
    """Write ``model.calibration.json`` beside ``model.onnx``, if its checkpoint was trained with ``--qat``.

    Args:
        training: the checkpoint's training record; None where it has none.
        model: the graph that was exported from the checkpoint, as it was saved.
        path: the graph's file.
        force: replace a table that was made from another graph.

    Returns:
        The table's file; None where the record holds no table: nothing is written then.

    Raises:
        InputError: a table of another graph is there, or the folder isn't writable.
        TableError: the record's table is damaged, or isn't of this graph's weights.
    """
    from calibration.table import CalibrationTable
    from toolkit.building.ranges import made_from, table_path

    value = (training or {}).get(KEY)
    if value is None:
        return None
    table = for_graph(CalibrationTable.from_json(value, "the checkpoint's calibration table"), model)
    target = table_path(Path(path), table.precision)
    check_replace(target, table.weights, made_from, force=force)
    table.write(target)
    return target


def for_graph(table: "CalibrationTable", model: "onnx.ModelProto") -> "CalibrationTable":
    """The table under the names of a graph that was exported with other options: uint8 pictures, another opset.

    Raises:
        TableError: the graph has other weights or another preprocessing, or a tensor can't be found.
    """
    from calibration.rename import fit
    from calibration.table import check_table
    from export.digests import constant_digests
    from export.graph import read_metadata, weights_digest

    metadata = read_metadata(model)
    digests = constant_digests(model)
    if metadata is not None and metadata.uint8_input:
        table = _behind_pixels(table, model, digests)
    else:
        table = fit(table, model)
    check_table(table, weights_digest(model, digests), metadata.preprocess_digest if metadata else None)
    return table


def _behind_pixels(
    table: "CalibrationTable", model: "onnx.ModelProto", digests: Mapping[str, str]
) -> "CalibrationTable":
    """The table for a graph that takes uint8 pictures: what was its input is now what their normalisation makes.

    Where anything else differs too the table comes back as it is.
    """
    from calibration.rename import sign
    from export.graph import weights_digest
    from export.structure import consumers

    users = consumers(model.graph)
    given = tensor = model.graph.input[0].name
    added: set[str] = set()
    while [node.op_type for node in users.get(tensor, [])] in (["Cast"], ["Transpose"], ["Mul"], ["Add"]):
        (node,) = users[tensor]
        added.update(name for name in node.input if name in digests)
        tensor = str(node.output[0])
        if node.op_type == "Add":
            break
    if weights_digest(model, {name: found for name, found in digests.items() if name not in added}) != table.weights:
        return table
    ranges = {tensor if name == given else name: found for name, found in table.ranges.items()}
    if tensor in ranges:
        ranges[tensor] = replace(ranges[tensor], tap=tensor if ranges[tensor].tap == given else ranges[tensor].tap)
    return sign(replace(table, ranges=ranges, weights=weights_digest(model, digests)), model)
