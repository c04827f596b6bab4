"""From a master graph and a calibration table to an INT8 graph for one target."""

from collections.abc import Callable, Collection
from typing import Literal

from calibration.bias import shift_biases
from calibration.editor import Editor
from calibration.equalise import equalise
from calibration.placement import onnxruntime, tensorrt
from calibration.ranges import Ranges, refuse_typed
from calibration.table import CalibrationTable, check_table
from engines.errors import GraphError, InputError
from export.graph import Derived, read_metadata, weights_digest, write_derived
from export.onnxlib import onnx
from export.precision import to_half
from export.structure import label

Placement = Callable[[Editor, Ranges, CalibrationTable, Collection[str]], None]

PLACEMENTS: dict[str, Placement] = {"tensorrt": tensorrt.place, "onnxruntime": onnxruntime.place}
"""Where Q/DQ goes, by target."""

REMAINDERS: dict[str, Literal["fp16", "fp32"]] = {"tensorrt": "fp16", "onnxruntime": "fp32"}
"""The type of what isn't quantised: FP16 on a GPU, where an FP32 remainder can make INT8 slower than plain FP16."""


def quantise(
    model: onnx.ModelProto,
    table: CalibrationTable,
    target: str = "tensorrt",
    keep: Collection[str] = (),
    *,
    remainder: Literal["fp16", "fp32"] | None = None,
) -> onnx.ModelProto:
    """Place Q/DQ for ``target`` and give the rest of the graph its type.

    To judge a graph for TensorRT on ONNX Runtime, disable its optimizer ``WeightBiasQuantization``: it would quantise
    the biases with scales multiplied in float16, where their product is subnormal, and the weights of layers
    kept back.

    Args:
        model: the FP32 master graph; it isn't changed.
        table: the ranges of its tensors.
        target: "tensorrt" (for TensorRT for RTX too) or "onnxruntime".
        keep: names of nodes that stay unquantised, beside those that the table keeps.
        remainder: "fp16" or "fp32": the type of what isn't quantised; the target's best unless given.

    Returns:
        A new graph that carries the master's metadata, and what it was made from.

    Raises:
        TableError: the table was made from other weights or preprocessing, or lacks a tensor.
        GraphError: the graph is quantised already, or has nothing to quantise.
        InputError: an unknown target, or a name in ``keep`` that no node has.
    """
    if target not in PLACEMENTS:
        raise InputError(f"no Q/DQ placement for '{target}'", f"targets are {', '.join(PLACEMENTS)}")
    keep = {*keep, *table.keep}
    if unknown := sorted(keep - {label(node) for node in model.graph.node}):
        raise InputError(f"no node is called '{unknown[0]}'", "`toolkit inspect` lists the graph's nodes")
    refuse_typed(model)
    weights = weights_digest(model)
    metadata = read_metadata(model)
    check_table(table, weights, metadata.preprocess.digest() if metadata else None)
    model = shift_biases(equalise(model, table.equalisation), table.biases, keep)
    ranges = Ranges(model)
    if not any(ranges.is_weighted(node) and label(node) not in keep for node in ranges.nodes):
        raise GraphError(
            "the graph has no convolution or matrix product to quantise", "use --fp16, or keep fewer layers back"
        )
    editor = Editor(model, weight_clip=table.weight_clip)
    PLACEMENTS[target](editor, ranges, table, keep)
    result = editor.finish()
    remainder = remainder or REMAINDERS[target]
    if remainder == "fp16":
        result = to_half(result, "fp16", keep=editor.wide)
    write_derived(result, Derived("int8", weights, target, table.digest(), remainder))
    return result
