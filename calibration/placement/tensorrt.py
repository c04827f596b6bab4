"""Q/DQ where TensorRT and TensorRT for RTX fuse them: on the inputs of convolutions and matrix products, only.

1. Activations: symmetric int8, one scale a tensor, zero point 0. Weights: symmetric int8, a scale an output channel:
   axis 0 for Conv and Gemm(transB=1), axis 1 for ConvTranspose, the last one for MatMul and Gemm(transB=0).
2. Biases stay float. Nothing is put between a convolution and its activation, nor on graph outputs.
3. Where a branch joins the result of a convolution (a residual Add), the branch is quantised and the result isn't,
   so that the Add becomes part of the convolution. A Concat is quantised by whoever reads it.
4. MaxPool, ReLU, Reshape, pooling, LRN are left alone: the library moves Q over those that it can run in int8.
5. Scales are numbers that float16 holds exactly, because the remainder of the graph is float16.
6. Matrix products, their dequantised inputs and the activations behind them stay float32. In half precision
   TensorRT for RTX 1.7 writes the sums of an INT8 product as float16 before it scales them, and multiplies
   the two scales in float16: the sums exceed 65504 and the product of the scales is subnormal (both seen in
   the plan). With float32 scales the same INT8 kernel runs, with a float32 epilogue. Convolutions have that
   epilogue either way.
"""

from collections.abc import Collection

import numpy as np

from calibration.editor import Editor, Scale
from calibration.ranges import PRODUCTS, WEIGHTED, Ranges
from calibration.table import CalibrationTable, TensorRange
from calibration.weights import half_up
from export.onnxlib import onnx
from export.structure import attribute, label


def symmetric(found: TensorRange) -> Scale:
    """int8 with zero point 0: 127 steps to amax."""
    step = np.float32(found.amax) / np.float32(127)
    return Scale(float(half_up(np.array([step]))[0]) if step > 0 else 1.0)


def weight_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """The dimension of a weight that holds the output channels."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1 if node.op_type in {"Gemm", "ConvTranspose"} else dimensions - 1


def place(editor: Editor, ranges: Ranges, table: CalibrationTable, keep: Collection[str]) -> None:
    """Quantise every convolution and matrix product but those in ``keep``."""

    def quantised(tensor: str, *, wide: bool = False) -> str:
        return editor.pair(tensor, symmetric(table.range_of(ranges.root(tensor))), wide=wide)

    def stay_wide(node: onnx.NodeProto) -> None:
        for member in (node, *ranges.following(node)):
            editor.stay_wide(editor.node(member).name)

    for original in ranges.nodes:
        if label(original) in keep:
            continue
        if ranges.is_weighted(original):
            node = editor.node(original)
            product = node.op_type in PRODUCTS
            axis = weight_axis(node, editor.values(node.input[1]).ndim)
            alpha = 1.0
            if node.op_type == "Gemm":
                alpha, beta = editor.plain_gemm(node)
                if beta != 1.0 and len(node.input) > 2 and node.input[2]:
                    node.input[2] = editor.constant(editor.values(node.input[2]) * np.float32(beta), node.input[2])
            node.input[1], _ = editor.weight(node.input[1], axis, half_scales=not product, factor=alpha)
            node.input[0] = quantised(node.input[0], wide=product)
            if product:
                editor.stay_wide(node.input[1])
                stay_wide(original)
        elif ranges.is_product(original):
            node = editor.node(original)
            stay_wide(original)
            for index, tensor in enumerate(original.input):
                node.input[index] = quantised(tensor, wide=True)
        elif ranges.is_joining(original) and original.op_type == "Add":
            branch = _branch(original, ranges, keep)
            if branch is not None:
                editor.rename_input(editor.node(original), branch, quantised(branch))


def _branch(node: onnx.NodeProto, ranges: Ranges, keep: Collection[str]) -> str | None:
    """The input of a residual Add that isn't the fresh result of a quantised convolution, if the other one is."""

    def fresh(tensor: str) -> bool:
        made_by = ranges.producers.get(tensor)
        alone = len(ranges.consumers.get(tensor, [])) == 1
        return made_by is not None and made_by.op_type in WEIGHTED and alone and label(made_by) not in keep

    first, second = node.input
    if fresh(first) and first != second:
        return str(second)
    return str(first) if fresh(second) and first != second else None
