"""From a master graph and a calibration table to an INT8 or FP8 graph for one target.

FP8 is placed for TensorRT only. ONNX Runtime's CPU has no FP8 kernels: it runs TensorRT's graph by dequantising,
which is slow and exact, so that the accuracy of an FP8 engine is measured on any machine.
"""

import functools
from collections.abc import Callable, Collection
from typing import Literal

from calibration.editor import Editor
from calibration.equalise import equalise
from calibration.placement import onnxruntime, tensorrt
from calibration.ranges import Ranges, refuse_typed
from calibration.shift import shift_biases
from calibration.table import CalibrationTable, check_table
from engines.errors import GraphError, InputError, UnsupportedError
from export.digests import constant_digests
from export.graph import Derived, read_metadata, weights_digest, write_derived
from export.light import NO_ARRAYS, Arrays, SplitGraph
from export.onnxlib import onnx
from export.passes.lift_opset import lift_opset
from export.precision import to_half
from export.structure import label

Placement = Callable[[Editor, Ranges, CalibrationTable, Collection[str]], None]

PLACEMENTS: dict[str, Placement] = {"tensorrt": tensorrt.place, "onnxruntime": onnxruntime.place}
"""Where Q/DQ goes, by target."""

FP8_OPSET = 19
"""The first opset with e4m3 in QuantizeLinear and DequantizeLinear."""

_FP8_IR = 9
"""The first version of ONNX files that knows the type."""

REMAINDERS: dict[str, Literal["fp16", "fp32"]] = {"tensorrt": "fp16", "onnxruntime": "fp32"}
"""The type of what isn't quantised: FP16 on a GPU, where an FP32 remainder can make INT8 slower than plain FP16."""


def quantise(
    model: onnx.ModelProto,
    table: CalibrationTable,
    target: str = "tensorrt",
    keep: Collection[str] = (),
    *,
    remainder: Literal["fp16", "fp32"] | None = None,
    weights: str | None = None,
    arrays: Arrays = NO_ARRAYS,
) -> onnx.ModelProto:
    """Place Q/DQ for ``target``, of the precision that the table is for, and give the rest of the graph its type.

    To judge a graph for TensorRT on ONNX Runtime, disable its optimizer ``WeightBiasQuantization``: it would quantise
    the biases with scales multiplied in float16, where their product is subnormal, and the weights of layers
    kept back. A graph with FP8 needs more (:mod:`engines.sessions.ort_fp8`).

    Args:
        model: the FP32 master graph; it isn't changed.
        table: the ranges of its tensors.
        target: "tensorrt" (for TensorRT for RTX too) or "onnxruntime".
        keep: names of nodes that stay unquantised, beside those that the table keeps.
        remainder: "fp16" or "fp32": the type of what isn't quantised; the target's best unless given.
        weights: the digest of the model's weights, where it is known.
        arrays: the values of the model's stubs (:mod:`export.light`); the new graph has none.

    Returns:
        A new graph that carries the master's metadata, and what it was made from.

    Raises:
        TableError: the table was made from other weights or preprocessing, or lacks a tensor.
        GraphError: the graph is quantised already, or has nothing to quantise.
        InputError: an unknown target, or a name in ``keep`` that no node has.
        UnsupportedError: the table is for FP8, and the target has no kernels for it.
    """
    return quantise_light(model, table, target, keep, remainder=remainder, weights=weights, arrays=arrays).whole()


def quantise_light(
    model: onnx.ModelProto,
    table: CalibrationTable,
    target: str = "tensorrt",
    keep: Collection[str] = (),
    *,
    remainder: Literal["fp16", "fp32"] | None = None,
    weights: str | None = None,
    arrays: Arrays = NO_ARRAYS,
) -> SplitGraph:
    """What :func:`quantise` gives, its large constants beside it where that saves copies of them."""
    if target not in PLACEMENTS:
        raise InputError(f"no Q/DQ placement for '{target}'", f"targets are {', '.join(PLACEMENTS)}")
    if table.precision == "fp8" and target != "tensorrt":
        raise UnsupportedError(
            "ONNX Runtime's CPU kernels don't compute in FP8",
            "use --int8 with --backend onnxruntime; --fp8 is for TensorRT and TensorRT for RTX",
        )
    keep = {*keep, *table.keep}
    if unknown := sorted(keep - {label(node) for node in model.graph.node}):
        raise InputError(f"no node is called '{unknown[0]}'", "`toolkit inspect` lists the graph's nodes")
    refuse_typed(model)
    weights = weights or weights_digest(model, constant_digests(model, arrays))
    metadata = read_metadata(model)
    check_table(table, weights, metadata.preprocess_digest if metadata else None)
    editor = place(model, table, target, keep, functools.partial(Editor, arrays=arrays), arrays)
    if not editor.has_weights:
        raise GraphError(
            f"the graph has no convolution or matrix product to quantise to {table.precision}",
            "use --fp16, or keep fewer layers back",
        )
    result = editor.split()
    remainder = remainder or REMAINDERS[target]
    if remainder == "fp16":
        result = SplitGraph(to_half(result.whole(), "fp16", keep=editor.wide))
    write_derived(result.model, Derived(table.precision, weights, target, table.digest(), remainder))
    return result


def place(
    model: onnx.ModelProto,
    table: CalibrationTable,
    target: str,
    keep: Collection[str],
    make_editor: Callable[..., Editor] = Editor,
    arrays: Arrays = NO_ARRAYS,
) -> Editor:
    """Place Q/DQ in a graph that suits the table: :func:`quantise` without its checks and without what comes after.

    Args:
        model: the FP32 graph; it isn't changed.
        table: the ranges of its tensors.
        target: "tensorrt" or "onnxruntime".
        keep: every node that stays unquantised.
        make_editor: an :class:`Editor` or something that does its work in another way.
        arrays: the values of the model's stubs, for what changes weights before it.

    Returns:
        The editor, whose ``finish`` gives the graph.
    """
    model = shift_biases(equalise(model, table.equalisation, arrays), table.biases, keep, arrays)
    if table.precision == "fp8":
        model = _lifted(model)
        keep = {*keep, *tensorrt.without_fp8_kernel(model)}
    editor = make_editor(model, weight_clip=table.weight_clip, precision=table.precision)
    PLACEMENTS[target](editor, Ranges(model), table, keep)
    return editor


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in an opset and a file version that know FP8; itself if it is."""
    opset = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
    if opset >= FP8_OPSET and model.ir_version >= _FP8_IR:
        return model
    lifted = onnx.ModelProto()
    lifted.CopyFrom(model)
    lift_opset(lifted, FP8_OPSET)
    lifted.ir_version = max(lifted.ir_version, _FP8_IR)
    return lifted
