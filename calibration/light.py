"""Graphs without their large weights, which lie beside them as arrays: nobody writes, parses or copies those again.

In the graph a weight is a stub, an initializer with external data that is nowhere. Whatever runs the graph is given
the arrays.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.onnxlib import onnx
from export.structure import LIGHT, consumers, skeleton, tensor_bytes

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
_STORED = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def lighten(
    model: onnx.ModelProto, mapped: Mapping[str, NDArray[Any]] | None = None
) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy of a graph with stubs, and the arrays by name: those of ``mapped`` where it has them, else copies.

    Only weights whose values say nothing of the graph's structure are taken out: floats, and 8-bit integers that are
    dequantised.
    """
    users = consumers(model.graph)
    result, arrays = skeleton(model), dict[str, NDArray[Any]]()
    for tensor in model.graph.initializer:
        readers = {node.op_type for node in users.get(tensor.name, [])}
        plain = tensor.data_type in _FLOATS or (tensor.data_type in _STORED and readers == {"DequantizeLinear"})
        if plain and tensor_bytes(tensor) > LIGHT:
            known = None if mapped is None else mapped.get(tensor.name)
            arrays[tensor.name] = onnx.numpy_helper.to_array(tensor) if known is None else known
            result.graph.initializer.append(stub(tensor.name, arrays[tensor.name].dtype, tensor.dims))
        else:
            result.graph.initializer.add().CopyFrom(tensor)
    return result, arrays


def stub(name: str, dtype: np.dtype[Any], shape: Iterable[int]) -> onnx.TensorProto:
    """The initializer that stands for an array."""
    tensor = onnx.TensorProto(
        name=name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.dims.extend(shape)
    length = math.prod(tensor.dims) * dtype.itemsize
    for key, value in {"location": "memory", "offset": "0", "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor
