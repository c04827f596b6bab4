"""Q/DQ the way ONNX Runtime's CPU kernels fuse it: on the inputs and the outputs of every quantised operator.

1. A convolution or matrix product runs in integers only when its data, its weights and its result are quantised and
   its bias is int32 with scale ``input scale · weight scale``. The result is taken after the activation: a ReLU
   disappears in an unsigned quantised tensor whose zero point is 0.
2. Activations are uint8 with the zero point that uses all 256 values (0 after a ReLU); weights are int8, a scale a
   channel: on x86 the kernels for this pair are the fastest, and it has twice the resolution after a ReLU.
3. MaxPool, Reshape, Flatten and the like carry quantised values: each tensor of a group has its own pair
   with the same scale.
4. Add, Concat and average pooling run quantised between quantised tensors. LRN and everything else stays float.
5. What the graph gives its caller stays float.
"""

from collections.abc import Collection, Iterable

import numpy as np

from calibration.editor import Editor, Scale
from calibration.placement.tensorrt import weight_axis
from calibration.ranges import Group, Ranges
from calibration.table import CalibrationTable, TensorRange
from export.onnxlib import onnx
from export.structure import label

_LARGEST_BIAS = 2**30
"""An int32 bias stays below this, so that adding it to the products can't overflow."""


def affine(found: TensorRange) -> Scale:
    """uint8 over the range that is kept: 255 steps, and a zero point that makes 0 exact."""
    step = np.float32((found.high - found.low) / 255)
    if not step > 0:
        return Scale(1.0, 0, "uint8")
    return Scale(float(step), int(np.clip(np.rint(-found.low / step), 0, 255)), "uint8")


def place(editor: Editor, ranges: Ranges, table: CalibrationTable, keep: Collection[str]) -> None:
    """Quantise every operator that has an integer kernel, but those in ``keep``."""
    plan = _Plan(ranges, table)
    for original in ranges.nodes:
        if label(original) in keep:
            continue
        if ranges.is_weighted(original) and _has_kernel(editor, original):
            scale = plan.want(original.input[0])
            _weigh(editor, editor.node(original), scale)
            plan.want_result(original)
        elif (ranges.is_joining(original) or ranges.is_averaging(original)) and plan.holds(original.input):
            plan.want_result(original)

    for name, group in plan.groups.items():
        for member in group.members:
            for user in ranges.consumers.get(member, []):
                pair = editor.pair(member, plan.scales[name])
                editor.rename_input(editor.node(user), member, pair)


class _Plan:
    """The groups that will be quantised, and their scales."""

    def __init__(self, ranges: Ranges, table: CalibrationTable) -> None:
        self.groups: dict[str, Group] = {}
        self.scales: dict[str, Scale] = {}
        self._ranges, self._table = ranges, table

    def want(self, tensor: str) -> Scale:
        """Quantise the group of ``tensor``; returns its scale."""
        name = self._ranges.root(tensor)
        if name not in self.groups:
            self.groups[name] = self._ranges.group(name)
            self.scales[name] = affine(self._table.range_of(name))
        return self.scales[name]

    def holds(self, tensors: Iterable[str]) -> bool:
        """Whether all ``tensors`` are quantised already: only then it pays to join or average them so."""
        return all(self._ranges.root(tensor) in self.groups for tensor in tensors)

    def want_result(self, node: onnx.NodeProto) -> None:
        """Quantise what ``node`` leaves behind, unless a caller gets it."""
        result = self._ranges.result(node)
        if not self._ranges.is_output(result):
            self.want(result)


def _has_kernel(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime has an integer kernel for this node: a constant bias, one value a channel, or none."""
    if node.op_type == "ConvTranspose":
        return False
    if node.op_type != "Gemm" or len(node.input) < 3 or not node.input[2]:
        return True
    return editor.is_constant(node.input[2])


def _weigh(editor: Editor, node: onnx.NodeProto, scale: Scale) -> None:
    """Make a node's weight int8 and its bias int32."""
    weight = node.input[1]
    axis = weight_axis(node, len(editor.shape(weight)))
    channels = editor.shape(weight)[axis]
    alpha, beta = editor.plain_gemm(node) if node.op_type == "Gemm" else (1.0, 1.0)
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if not has_bias:
        node.input[1], _ = editor.weight(weight, axis, factor=alpha)
        return
    values = np.broadcast_to(editor.values(node.input[2]).reshape(-1) * np.float32(beta), channels)
    least = (np.abs(values) / np.float32(scale.scale * _LARGEST_BIAS)).astype(np.float32)
    node.input[1], steps = editor.weight(weight, axis, factor=alpha, least=least)
    node.input[2] = editor.bias(node.input[2], values, steps * np.float32(scale.scale))
