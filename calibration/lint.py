"""What TensorRT and TensorRT for RTX make of the Q/DQ nodes in a graph, whoever wrote it, node by node."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.placement.tensorrt import weight_axis
from calibration.ranges import ACTIVATIONS, MOVES, PRODUCTS, WEIGHTED
from engines.errors import GraphError
from export.onnxlib import onnx
from export.structure import attribute, consumers, initializers, label, producers, tensor_specs

REFUSED, FLOAT, WRONG, SLOW = "refused", "runs in float", "wrong results", "slow"
"""The effects a finding may have, worst for a build first."""

UNSUPPORTED = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearMatMul",
        "QLinearMul",
    }
)
"""Quantised operators that the parsers don't know: they want Q/DQ around float ones."""

QUANTISED_TYPES = frozenset({"int8", "float8_e4m3fn", "int4"})

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_PER_CHANNEL_OPSET, _HALF_SCALE_OPSET = 13, 19


@dataclass(frozen=True)
class Finding:
    """One thing about one node.

    Attributes:
        node: its name.
        operator: its operator.
        effect: "refused" by the parser, "runs in float" in silence, "wrong results", or "slow".
        problem: what is wrong.
        remedy: what to do about it.
    """

    node: str
    operator: str
    effect: str
    problem: str
    remedy: str


def lint(model: onnx.ModelProto) -> list[Finding]:
    """What TensorRT would refuse, run in float or compute wrongly, in graph order; none for a graph without Q/DQ.

    Raises:
        GraphError: the graph's types or shapes contradict each other.
    """
    if not any(node.op_type in _QDQ | UNSUPPORTED for node in model.graph.node):
        return []
    return list(_Lint(model).findings())


def require_fusible(model: onnx.ModelProto, path: Path | str) -> tuple[str, ...]:
    """Refuse a graph with Q/DQ that TensorRT would refuse or silently run in float.

    Args:
        model: the graph.
        path: what the error calls it.

    Returns:
        The other findings, a line each.

    Raises:
        GraphError: naming the first node at fault and how many more there are.
    """
    findings = lint(model)
    # A layer without any Q/DQ was left in float on purpose; half a pair was not.
    fatal = [item for item in findings if item.effect in {REFUSED, FLOAT} and item.problem != _UNQUANTISED]
    if fatal:
        first = fatal[0]
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        effect = "TensorRT refuses" if first.effect == REFUSED else "TensorRT would silently run in float"
        raise GraphError(f"{effect} node '{first.node}' of '{path}': {first.problem}{more}", first.remedy)
    return tuple(f"{item.node}: {item.problem} ({item.effect})" for item in findings)


_UNQUANTISED = "neither data nor weight is quantised"


class _Lint:
    """The graph, and what is known of its tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0)
        self.specs = tensor_specs(model)
        self.made_by = producers(self.graph)
        self.used_by = consumers(self.graph)
        self.constants = initializers(self.graph)
        self.outputs = {value.name for value in self.graph.output}

    def findings(self) -> Iterator[Finding]:
        for node in self.graph.node:
            if node.op_type in UNSUPPORTED:
                yield self._found(
                    node, REFUSED, "the parser has no such operator", "use Q/DQ around the float operator"
                )
            elif node.op_type in _QDQ:
                yield from self._pair(node)
            elif node.op_type in WEIGHTED:
                yield from self._weighted(node)

    def _pair(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """One QuantizeLinear or DequantizeLinear by itself."""
        stored = self._stored(node)
        if stored == "int32":
            yield self._found(node, REFUSED, "a bias is stored as int32", "keep biases in float")
        elif stored not in QUANTISED_TYPES:
            yield self._found(node, REFUSED, f"it quantises to {stored}", "use symmetric int8")
        zero = self._values(node, 2)
        if zero is not None and np.any(zero.astype(np.float64) != 0):
            yield self._found(node, REFUSED, "its zero point is not 0", "use symmetric ranges with zero point 0")
        if not self._is_constant(node.input[1]):
            yield self._found(node, REFUSED, "its scale is not a constant", "use static ranges from a calibration")
        scale = self.specs.get(node.input[1])
        channels = self._channels(node)
        if channels > 1 and self.opset < _PER_CHANNEL_OPSET:
            yield self._found(
                node, REFUSED, f"per-channel scales at opset {self.opset}", "lift the graph to opset 13"
            )
        half = scale is not None and scale.dtype in {"float16", "bfloat16"}
        if (half or stored == "float8_e4m3fn") and self.opset < _HALF_SCALE_OPSET:
            what = f"{scale.dtype} scales" if half and scale is not None else "FP8"
            yield self._found(node, REFUSED, f"{what} at opset {self.opset}", "lift the graph to opset 19")
        if node.op_type == "QuantizeLinear" and channels > 1 and not self._is_constant(node.input[0]):
            yield self._found(
                node, FLOAT, f"an activation has {channels} scales, one a channel", "use one scale an activation"
            )
        if node.op_type == "QuantizeLinear":
            yield from self._between(node)
        elif set(node.output) & self.outputs:
            yield self._found(node, SLOW, "a graph output is quantised", "leave graph outputs in float")

    def _between(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """Q between a weighted operator and its activation keeps the two from fusing."""
        source = self.made_by.get(node.input[0])
        if source is None or source.op_type not in WEIGHTED:
            return
        followers = [
            follower
            for dequantize in self.used_by.get(node.output[0], [])
            for follower in self.used_by.get(dequantize.output[0], [])
        ]
        if any(follower.op_type in ACTIVATIONS for follower in followers):
            yield self._found(
                node, SLOW, f"it stands between {source.op_type} and its activation", "quantise behind the activation"
            )

    def _weighted(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """A convolution or matrix product and what feeds it."""
        data, weight = (self._dequantiser(name) for name in node.input[:2])
        if data is None and weight is None:
            yield self._found(node, FLOAT, _UNQUANTISED, "put Q/DQ on both, unless it is meant to stay in float")
            return
        if data is None or weight is None:
            which = "its data is" if data is None else "its weight is"
            yield self._found(node, FLOAT, f"{which} not quantised", "put Q/DQ on both inputs")
            return
        shape = self.specs[node.input[1]].shape if node.input[1] in self.specs else ()
        channels = self._channels(weight)
        if channels > 1 and weight.output[0] == node.input[1] and shape:
            axis = int(attribute(weight, "axis", 1)) % len(shape)
            wanted = weight_axis(node, len(shape))
            if axis != wanted:
                yield self._found(
                    node, FLOAT, f"its weight has scales along axis {axis}, not {wanted}", f"quantise along {wanted}"
                )
        scale = self.specs.get(weight.input[1])
        if node.op_type in PRODUCTS and scale is not None and scale.dtype == "float16":
            yield self._found(
                node,
                WRONG,
                "its INT8 sums are written as float16 before they are scaled, and may overflow",
                "give the DequantizeLinear nodes of matrix products float32 scales",
            )

    def _dequantiser(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear behind ``tensor``, seen through operators that only move values."""
        node = self.made_by.get(tensor)
        while node is not None and node.op_type in MOVES:
            node = self.made_by.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _stored(self, node: onnx.NodeProto) -> str:
        """The type that the quantised side of a pair has."""
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        return self.specs[name].dtype if name in self.specs else "an unknown type"

    def _channels(self, node: onnx.NodeProto) -> int:
        """The number of scales of a pair."""
        scale = self.specs.get(node.input[1])
        sizes = [size for size in scale.shape if isinstance(size, int)] if scale is not None else []
        return int(np.prod(sizes)) if sizes else 1

    def _values(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        """A constant input's values; None where it isn't there or isn't constant."""
        if len(node.input) <= index or node.input[index] not in self.constants:
            return None
        return np.asarray(onnx.numpy_helper.to_array(self.constants[node.input[index]]))

    def _is_constant(self, tensor: str) -> bool:
        if tensor in self.constants:
            return True
        node = self.made_by.get(tensor)
        return node is not None and node.op_type == "Constant"

    @staticmethod
    def _found(node: onnx.NodeProto, effect: str, problem: str, remedy: str) -> Finding:
        return Finding(label(node), node.op_type, effect, problem, remedy)
