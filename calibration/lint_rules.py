"""The rules of the lint, each seen to hold in TensorRT for RTX 1.7 (``tests/calibration/test_lint_real.py``).

What its parser and builder do, and say nothing of unless "refused":

- an int32 bias, an int16 or uint8 constant, a zero point other than 0, a scale of 0 or less: refused;
- uint8 activations with zero point 0, as NNCF writes them behind a ReLU: imported as int8 with the same scale, so
  that everything above 127 steps, the upper half of the range, is clipped;
- scales along the input channels of a weight, a scale a channel on an activation, and one scale in a list of length 1
  on the data of a convolution: the layer runs in float;
- a DequantizeLinear before an activation or an average: what follows runs in float;
- ConvTranspose: float however it is quantised; FP8 convolutions of large filters: float;
- a scale that is computed at run time: accepted by the parser, and the builder crashes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.foreign_scales import Constants
from calibration.placement.tensorrt import FP8_KERNEL_SIZE, weight_axis
from calibration.ranges import ACTIVATIONS, AVERAGING, MOVES, PRODUCTS, WEIGHTED
from calibration.signature import perm_of
from export.onnxlib import onnx
from export.structure import attribute, consumers, label, producers, tensor_specs, type_name

REFUSED, FLOAT, WRONG, SLOW = "refused", "runs in float", "wrong results", "slow"
"""The effects a finding may have, worst for a build first."""

UNSUPPORTED = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
    }
)
"""Quantised operators that the parsers don't know: they want Q/DQ around float ones."""

QUANTISED_TYPES = frozenset({"int8", "float8_e4m3fn", "int4"})

_FP8 = "float8_e4m3fn"
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_PER_CHANNEL_OPSET, _HALF_SCALE_OPSET = 13, 19


@dataclass(frozen=True)
class Finding:
    """One thing about one node.

    Attributes:
        node: its name.
        operator: its operator.
        effect: "refused" by the parser or builder, "runs in float" in silence, "wrong results", or "slow".
        problem: what is wrong.
        remedy: what to do about it.
        fatal: whether an engine of this graph wouldn't be what its Q/DQ nodes ask for.
    """

    node: str
    operator: str
    effect: str
    problem: str
    remedy: str
    fatal: bool = False


class Rules:
    """A graph, and what is known of its tensors.

    Args:
        model: the graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0)
        self._specs = tensor_specs(model)
        self._made_by = producers(self.graph)
        self._used_by = consumers(self.graph)
        self._constants = Constants(model)
        self._outputs = {value.name for value in self.graph.output}

    def findings(self) -> Iterator[Finding]:
        """Everything there is to say, in graph order."""
        for node in self.graph.node:
            if node.op_type in UNSUPPORTED:
                yield _refused(node, "the parser has no such operator", "use Q/DQ nodes around the float operator")
            elif node.op_type in _PAIRS:
                yield from self._type(node)
                yield from self._scale(node)
                yield from self._place(node)
            elif node.op_type in WEIGHTED:
                yield from self._weighted(node)

    def _type(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """What a QuantizeLinear or DequantizeLinear makes of numbers."""
        stored = self._stored(node)
        zero = self._values(node, 2)
        constant = node.input[0] in self._constants
        if stored == "int32":
            yield _refused(node, "it dequantises an int32 bias", "keep biases in float (QuantizeBias=False)")
        elif stored not in QUANTISED_TYPES | {"uint8"} or (stored == "uint8" and constant):
            yield _refused(node, f"it stores {stored}", "use symmetric int8")
        elif zero is not None and zero.any():
            shown = f"is {zero.flat[0]:g}" if zero.size == 1 else "differs from 0"
            yield _refused(node, f"its zero point {shown}: asymmetric", "use symmetric ranges with zero point 0")
        elif stored == "uint8" and node.op_type == "QuantizeLinear":
            problem = "uint8 read as int8: half its range is clipped"
            yield Finding(label(node), node.op_type, WRONG, problem, "use symmetric int8", fatal=True)
        half = self._scale_type(node) in {"float16", "bfloat16"}
        if (half or stored == _FP8) and self.opset < _HALF_SCALE_OPSET:
            what = f"{self._scale_type(node)} scales" if half else "FP8"
            yield _refused(node, f"{what} at opset {self.opset}", "lift the graph to opset 19")

    def _scale(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """The numbers that a QuantizeLinear or DequantizeLinear multiplies with."""
        scale = self._values(node, 1)
        if scale is None:
            problem = "its scale is computed at run time, on which the builder crashes"
            yield _refused(node, problem, "use static ranges from a calibration")
        elif not (scale > 0).all():
            yield _refused(node, "its scale isn't positive", "calibrate again")
        channels = self._channels(node)
        if channels > 1 and self.opset < _PER_CHANNEL_OPSET:
            yield _refused(node, f"per-channel scales at opset {self.opset}", "lift the graph to opset 13")
        if node.op_type == "QuantizeLinear" and channels > 1 and node.input[0] not in self._constants:
            problem, remedy = f"an activation has {channels} scales, one a channel", "use one scale an activation"
            if not any(user.op_type in WEIGHTED for user in self._readers(node)):  # else said of the layer itself
                yield Finding(label(node), node.op_type, SLOW, problem, remedy)

    def _place(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """Where a QuantizeLinear or DequantizeLinear stands."""
        if node.op_type == "DequantizeLinear":
            if set(node.output) & self._outputs:
                yield Finding(
                    label(node), node.op_type, SLOW, "a graph output is quantised", "leave graph outputs in float"
                )
            return
        source = self._made_by.get(node.input[0])
        if source is None or source.op_type not in WEIGHTED:
            return
        if any(follower.op_type in ACTIVATIONS for follower in self._readers(node)):
            problem = f"it stands between {source.op_type} and its activation"
            yield Finding(label(node), node.op_type, SLOW, problem, "quantise behind the activation")

    def _weighted(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """A convolution or matrix product and what feeds it."""
        data, weight = (self._dequantiser(name) for name in node.input[:2])
        if data is None and weight is None:
            # A layer without any Q/DQ was left in float on purpose; half a pair was not.
            problem = "neither data nor weight is quantised"
            yield _float(node, problem, "put Q/DQ on both, unless it is meant to stay in float", fatal=False)
            return
        if data is None or weight is None:
            which = (
                f"its data is not quantised{self._between(node)}" if data is None else "its weight is not quantised"
            )
            yield _float(node, which, "put Q/DQ right before both inputs")
            return
        channels = self._channels(data)
        if channels > 1:
            yield _float(node, f"its data has {channels} scales, one a channel", "use one scale an activation")
        elif node.op_type not in PRODUCTS and self._is_list(data):
            problem = "the scale of its data is a list of one, which is taken for one a channel"
            yield _float(node, problem, "give the scale without dimensions")
        yield from self._axis(node, weight)
        if node.op_type == "ConvTranspose":
            problem = "TensorRT for RTX 1.7 has no transposed convolution in 8 bits"
            yield _float(node, problem, "nothing to do for it: TensorRT has one in int8", fatal=False)
        if node.op_type == "Conv" and self._stored(data) == _FP8 and self._filter(node) > FP8_KERNEL_SIZE:
            yield _float(node, f"no FP8 kernel has a filter of {self._filter(node)} weights", "leave it in float")
        if node.op_type in PRODUCTS and self._scale_type(weight) == "float16":
            yield Finding(
                label(node),
                node.op_type,
                WRONG,
                "its INT8 sums are written as float16 before they are scaled, and may overflow",
                "give the DequantizeLinear nodes of matrix products float32 scales",
            )

    def _axis(self, node: onnx.NodeProto, weight: onnx.NodeProto) -> Iterator[Finding]:
        """Whether the scales of a weight lie along its output channels."""
        spec = self._specs.get(node.input[1])
        if self._channels(weight) < 2 or spec is None or not spec.shape:
            return
        wanted, tensor = weight_axis(node, len(spec.shape)), node.input[1]
        while tensor != weight.output[0]:
            made_by = self._made_by[tensor]
            if made_by.op_type == "Transpose":
                wanted = perm_of(made_by, len(spec.shape))[wanted]
            elif made_by.op_type not in {"Identity", "Dropout"}:
                return  # a reshape: where the channels lie then isn't followed
            tensor = made_by.input[0]
        axis = int(attribute(weight, "axis", 1)) % len(spec.shape)
        if axis != wanted:
            problem = f"its weight has scales along axis {axis}, not {wanted}, that of the output channels"
            yield _float(node, problem, f"quantise the weight along axis {wanted}")

    def _between(self, node: onnx.NodeProto) -> str:
        """What keeps a quantised tensor from being the data of ``node``, if something does."""
        made_by = self._made_by.get(node.input[0])
        if made_by is not None and made_by.op_type in ACTIVATIONS | AVERAGING and self._dequantiser(made_by.input[0]):
            return f": {made_by.op_type} stands between it and DequantizeLinear"
        return ""

    def _dequantiser(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear behind ``tensor``, seen through operators that only move values."""
        node = self._made_by.get(tensor)
        while node is not None and node.op_type in MOVES:
            node = self._made_by.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _readers(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What reads the numbers that a QuantizeLinear stores, through operators that only move values."""
        waiting = [*node.output]
        while waiting:
            for user in self._used_by.get(waiting.pop(), []):
                yield user
                if user.op_type == "DequantizeLinear" or user.op_type in MOVES:
                    waiting.extend(user.output)

    def _stored(self, node: onnx.NodeProto) -> str:
        """The type that the quantised side of a pair has."""
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if name not in self._specs and len(node.input) > 2 and node.input[2] in self._constants:
            return type_name(self._constants.kind(node.input[2]))
        return self._specs[name].dtype if name in self._specs else "an unknown type"

    def _scale_type(self, node: onnx.NodeProto) -> str:
        return self._specs[node.input[1]].dtype if node.input[1] in self._specs else ""

    def _channels(self, node: onnx.NodeProto) -> int:
        """The number of scales of a pair."""
        scale = self._specs.get(node.input[1])
        return math.prod(size for size in scale.shape if isinstance(size, int)) if scale is not None else 1

    def _is_list(self, node: onnx.NodeProto) -> bool:
        """Whether the one scale of a pair is in a list of length 1."""
        return node.input[1] in self._specs and self._specs[node.input[1]].shape == (1,)

    def _filter(self, node: onnx.NodeProto) -> int:
        """How many weights a convolution's filter has in space."""
        spec = self._specs.get(node.input[1])
        return math.prod(size for size in spec.shape[2:] if isinstance(size, int)) if spec else 0

    def _values(self, node: onnx.NodeProto, index: int) -> NDArray[np.float32] | None:
        """A constant input's values; None where it isn't there or isn't constant."""
        if len(node.input) <= index or node.input[index] not in self._constants:
            return None
        return self._constants.values(node.input[index])


def _refused(node: onnx.NodeProto, problem: str, remedy: str) -> Finding:
    return Finding(label(node), node.op_type, REFUSED, problem, remedy, fatal=True)


def _float(node: onnx.NodeProto, problem: str, remedy: str, *, fatal: bool = True) -> Finding:
    return Finding(label(node), node.op_type, FLOAT, problem, remedy, fatal)
