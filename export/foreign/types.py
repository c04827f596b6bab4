"""One float type: FP32, in which master graphs compute.

1. FP16 and BF16 constants become FP32, which holds each of them exactly; so do inputs, outputs and casts to them.
2. Double precision becomes FP32: constants are rounded, and one that FP32 can't hold is an error.
3. A cast that no longer changes anything goes.
"""

from collections.abc import Iterator

import numpy as np

from engines.errors import GraphError
from export.foreign.edit import is_plain
from export.onnxlib import onnx
from export.passes.noops import remove_noops
from export.structure import attribute, label, set_attribute, tensor_specs

_T = onnx.TensorProto
_NAMES = {_T.FLOAT16: "FP16", _T.BFLOAT16: "BF16", _T.DOUBLE: "double precision"}
_ATTRIBUTES = ("to", "dtype", "stash_type", "output_dtype", "softmax_precision")
"""Attributes that hold an element type."""

_LARGEST = float(np.finfo(np.float32).max)


def to_float32(model: onnx.ModelProto, changes: list[str]) -> str:
    """Apply the rules above.

    Returns:
        The shortest float type that the graph had: "fp32", "fp16" or "bf16".

    Raises:
        GraphError: a constant is beyond FP32.
    """
    graph = model.graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    kinds |= {int(attribute(node, name, 0)) for node in graph.node if is_plain(node, "Cast") for name in ("to",)}
    found = [kind for kind in _NAMES if kind in kinds]
    if not found:
        return "fp32"
    for tensor in _tensors(graph):
        if tensor.data_type in _NAMES:
            _widen(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NAMES:
            value.type.tensor_type.elem_type = _T.FLOAT
    for node in graph.node:
        for name in _ATTRIBUTES:
            if is_plain(node) and attribute(node, name, 0) in _NAMES:
                set_attribute(node, name, int(_T.FLOAT))
    remove_noops(graph, tensor_specs(model))
    exact = "" if _T.DOUBLE in found else ", each value exactly"
    changes.append(f"types: {' and '.join(_NAMES[kind] for kind in found)} became FP32{exact}")
    return "fp16" if _T.FLOAT16 in found else "bf16" if _T.BFLOAT16 in found else "fp32"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            if item.HasField("t"):
                yield item.t


def _widen(tensor: onnx.TensorProto) -> None:
    values = np.asarray(onnx.numpy_helper.to_array(tensor))
    finite = values[np.isfinite(values.astype(np.float64))].astype(np.float64)
    if finite.size and float(np.abs(finite).max()) > _LARGEST:
        raise GraphError(
            f"constant '{tensor.name}' holds {float(np.abs(finite).max()):.3g}, which FP32 can't",
            "export the model in float32",
        )
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))


def refuse_types(model: onnx.ModelProto, name: str) -> None:
    """Refuse constants of types that no layer here computes in: 4-bit and 8-bit floats, complex numbers.

    Raises:
        GraphError: naming the constant.
    """
    plain = {_T.FLOAT, _T.BOOL, *_NAMES, *range(_T.UINT8, _T.INT64 + 1), _T.UINT32, _T.UINT64} - {_T.STRING}
    for tensor in model.graph.initializer:
        if tensor.data_type not in plain:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            raise GraphError(f"{name} has the constant '{tensor.name}' of type {kind}", "export the float model")
    for node in model.graph.node:
        if attribute(node, "to", 0) in {_T.COMPLEX64, _T.COMPLEX128, _T.STRING}:
            raise GraphError(
                f"{name} computes with strings or complex numbers: '{label(node)}'", "export the float model"
            )
