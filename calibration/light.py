"""Makes a graph light that is whole, or light in part only (:mod:`export.light`)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.light import SplitGraph, is_stub, stub, values_of
from export.onnxlib import onnx
from export.structure import LIGHT, consumers, skeleton, tensor_bytes

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
_STORED = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def lighten(graph: SplitGraph | onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy of a graph with stubs for all its large weights, and the arrays by name: those that it has, else copies.

    Only weights whose values say nothing of the graph's structure are taken out: floats, and 8-bit integers that are
    dequantised.
    """
    model, known = (graph.model, graph.arrays) if isinstance(graph, SplitGraph) else (graph, {})
    users = consumers(model.graph)
    result, arrays = skeleton(model), dict[str, NDArray[Any]]()
    for tensor in model.graph.initializer:
        readers = {node.op_type for node in users.get(tensor.name, [])}
        plain = tensor.data_type in _FLOATS or (tensor.data_type in _STORED and readers == {"DequantizeLinear"})
        if is_stub(tensor) or (plain and tensor_bytes(tensor) > LIGHT):
            values = arrays[tensor.name] = np.asarray(values_of(tensor, known))
            result.graph.initializer.append(stub(tensor.name, values.dtype, tensor.dims))
        else:
            result.graph.initializer.add().CopyFrom(tensor)
    return result, arrays
