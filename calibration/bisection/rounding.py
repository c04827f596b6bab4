"""Values of one graph in the types of another: in half precision, or quantised with that graph's own scales."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bisection.sides import Side
from calibration.e4m3 import decode, encode
from calibration.foreign_scales import LIMITS
from calibration.signature import perm_of
from calibration.weights import Floats
from export.onnxlib import onnx
from export.structure import attribute

_E4M3 = onnx.TensorProto.FLOAT8E4M3FN


class Rounding:
    """Puts values where the second graph has a constant of its own.

    Args:
        side: the second graph.
    """

    def __init__(self, side: Side) -> None:
        self._side = side

    def __call__(self, tensor: str, values: Floats) -> NDArray[Any] | None:  # noqa: PLR0911 - one an operator
        """``values`` as the graph would hold them in place of what reaches ``tensor``.

        Returns:
            An array of the tensor's own type; None where its shape is another one, or how it is stored isn't known.
        """
        side = self._side
        node = side.made_by.get(tensor)
        if tensor in side.constants:
            shape = side.specs[tensor].shape
            if math.prod(map(int, shape)) != values.size:
                return None
            return values.reshape([int(size) for size in shape]).astype(numpy_type(side.dtype(tensor)), copy=False)
        if node is None or not node.input or tensor in side.computed:
            return None
        if node.op_type == "Transpose":
            order = perm_of(node, values.ndim)
            inner = self(node.input[0], values.transpose(np.argsort(order)))
            return None if inner is None else inner.transpose(order)
        if node.op_type == "DequantizeLinear":
            return self._quantised(node, values)
        if node.op_type in {"Cast", "Identity"}:
            inner = self(node.input[0], values)
            return None if inner is None else inner.astype(numpy_type(side.dtype(tensor)))
        return None

    def _quantised(self, node: onnx.NodeProto, values: Floats) -> NDArray[Any] | None:
        """What a DequantizeLinear gives back of ``values``, quantised with its scale, zero point and axis."""
        constants, stored = self._side.constants, node.input[0]
        kind = self._kind(stored, node)
        if kind not in LIMITS or not all(name in constants for name in node.input[1:] if name):
            return None
        scale = constants.values(node.input[1])
        zero = constants.values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
        if scale.size > 1:
            axis = int(attribute(node, "axis", 1))
            if scale.ndim != 1 or not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
                return None
            shape = [1] * values.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), np.broadcast_to(zero.reshape(-1), scale.size).reshape(shape)
        found = values / scale
        if kind == _E4M3:
            found = decode(encode(found))
        else:  # in place: fresh memory takes longer than the numbers
            low, high = LIMITS[kind]
            np.rint(found, out=found)
            found += zero
            np.clip(found, low, high, out=found)
            found -= zero
        found *= scale
        return found.astype(numpy_type(self._side.dtype(node.output[0])), copy=False)

    def _kind(self, stored: str, node: onnx.NodeProto) -> int:
        """The ONNX element type that a DequantizeLinear reads."""
        if stored in self._side.constants:
            kind = self._side.constants.kind(stored)
            return kind if kind != onnx.TensorProto.INT32 else -1
        found = [name for name in node.input[2:3] if name]
        return self._side.constants.kind(found[0]) if found and found[0] in self._side.constants else -1


def numpy_type(dtype: str) -> Any:
    """A type by its name, BF16 included."""
    if dtype == "bfloat16":
        return onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    return np.dtype(dtype)
