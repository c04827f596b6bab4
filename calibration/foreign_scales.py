"""What the Q/DQ nodes of any tool say: the range of each activation, and the float weights behind stored ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.likeness import is_transparent
from calibration.signature import constant_value, perm_of
from engines.errors import TableError
from export.onnxlib import onnx
from export.structure import attribute, initializers, label, producers

_T = onnx.TensorProto
LIMITS: dict[int, tuple[int, int]] = {
    _T.INT8: (-128, 127),
    _T.UINT8: (0, 255),
    _T.INT16: (-32768, 32767),
    _T.UINT16: (0, 65535),
    _T.INT4: (-8, 7),
    _T.UINT4: (0, 15),
    _T.FLOAT8E4M3FN: (-448, 448),
    _T.FLOAT8E5M2: (-57344, 57344),
}
"""The smallest and the largest number of each type that a QuantizeLinear may give."""

FP8 = frozenset({_T.FLOAT8E4M3FN, _T.FLOAT8E5M2})


@dataclass(frozen=True)
class Found:
    """The range of one activation in a foreign graph.

    Attributes:
        tensor: the activation, in the foreign graph.
        low, high: what its quantised values can hold; symmetric types lose their odd smallest value.
        kind: the ONNX element type of the quantised values.
        channels: how many scales it has; of several the range holds all.
    """

    tensor: str
    low: float
    high: float
    kind: int
    channels: int = 1

    @property
    def amax(self) -> float:
        """The larger magnitude."""
        return max(-self.low, self.high)


class Constants:
    """The constants of a graph: initializers and results of Constant."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = initializers(model.graph)
        for node in model.graph.node:
            if (value := constant_value(node)) is not None:
                self._tensors[node.output[0]] = value

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors

    def kind(self, tensor: str) -> int:
        """The ONNX element type of a constant."""
        return int(self._tensors[tensor].data_type)

    def values(self, tensor: str) -> NDArray[np.float32]:
        """The values of a constant, whatever its type, as float32."""
        return np.asarray(onnx.numpy_helper.to_array(self._tensors[tensor])).astype(np.float32)


def found_ranges(model: onnx.ModelProto) -> tuple[list[Found], list[str]]:
    """The range of every activation that a QuantizeLinear quantises, and the activations whose scale isn't constant.

    An activation that is quantised several times is listed as often.

    Raises:
        TableError: a QuantizeLinear has zero points that don't fit its scales.
    """
    constants, made_by = Constants(model), producers(model.graph)
    found, dynamic = [], []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        tensor = _stored_from(node.input[0], made_by)
        if tensor in constants:
            continue
        parameters = [name for name in node.input[1:3] if name]
        if not all(name in constants for name in parameters):
            dynamic.append(tensor)
            continue
        found.append(_range(node, tensor, constants))
    return found, dynamic


def _range(node: onnx.NodeProto, tensor: str, constants: Constants) -> Found:
    zero_point = node.input[2] if len(node.input) > 2 else ""
    kind = constants.kind(zero_point) if zero_point else int(attribute(node, "output_dtype", 0)) or _T.UINT8
    scale = constants.values(node.input[1]).reshape(-1).astype(np.float64)
    zero = constants.values(zero_point).reshape(-1).astype(np.float64) if zero_point else np.zeros(1)
    if zero.size not in {1, scale.size}:
        raise TableError(
            f"the scale and the zero point of '{label(node)}' differ in size", "write the quantised graph again"
        )
    low, high = LIMITS.get(kind, LIMITS[_T.INT8])
    if low < 0 and not zero.any():
        low = -high
    return Found(tensor, float(np.min(scale * (low - zero))), float(np.max(scale * (high - zero))), kind, len(scale))


def _stored_from(tensor: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    node = made_by.get(tensor)
    while node is not None and is_transparent(node):
        tensor = node.input[0]
        node = made_by.get(tensor)
    return tensor


def float_weight(
    tensor: str, constants: Constants, made_by: Mapping[str, onnx.NodeProto]
) -> NDArray[np.float32] | None:
    """The weight that reaches a node: a constant, dequantised and transposed as the graph does.

    Returns:
        float32, or None where the graph computes it in another way.
    """
    if tensor in constants:
        return constants.values(tensor)
    node = made_by.get(tensor)
    if node is None or not node.input:
        return None
    source = float_weight(node.input[0], constants, made_by)
    if source is None:
        return None
    if node.op_type == "Transpose":
        return source.transpose(perm_of(node, source.ndim))
    if node.op_type == "DequantizeLinear" and node.input[0] in constants:
        return _dequantised(node, source, constants)
    return source if is_transparent(node) or node.op_type == "Identity" else None


def _dequantised(
    node: onnx.NodeProto, stored: NDArray[np.float32], constants: Constants
) -> NDArray[np.float32] | None:
    if not all(name in constants for name in node.input[1:] if name):
        return None
    scale = constants.values(node.input[1])
    zero = constants.values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
    if scale.ndim > 1 or zero.size not in {1, scale.size}:
        return None  # a scale a block, or damaged
    if scale.size > 1:
        axis = int(attribute(node, "axis", 1))
        if not -stored.ndim <= axis < stored.ndim or stored.shape[axis] != scale.size:
            return None
        shape = [1] * stored.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    stored -= zero
    stored *= scale
    return stored


def alike(first: NDArray[np.float32], second: NDArray[np.float32], axis: int) -> bool:
    """Whether two weights are the same but for rounding, clipping, and a factor an output channel.

    Each channel of ``second`` is scaled to come as near to ``first`` as it can; what then differs may hold a quarter
    of the energy of ``first``. (Rounding to 4 bits leaves about 1/50 of a channel's; independent weights nearly all.)

    Args:
        first: the master's weight.
        second: the foreign one.
        axis: the dimension of the output channels.
    """
    if first.shape != second.shape:
        return False
    rows = np.moveaxis(first, axis, 0).reshape(first.shape[axis], -1)
    others = np.moveaxis(second, axis, 0).reshape(rows.shape)
    energy = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    other = np.einsum("ij,ij->i", others, others, dtype=np.float64)
    product = np.einsum("ij,ij->i", rows, others, dtype=np.float64)
    shared = np.divide(product**2, other, out=np.zeros_like(other), where=other > 0)
    return bool(energy.sum() - shared.sum() <= energy.sum() / 4)
