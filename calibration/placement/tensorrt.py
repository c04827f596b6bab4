"""Q/DQ where TensorRT and TensorRT for RTX fuse them: on the inputs of convolutions and matrix products, only.

1. Activations: symmetric int8, one scale a tensor, zero point 0. Weights: symmetric int8, a scale an output channel:
   axis 0 for Conv and Gemm(transB=1), axis 1 for ConvTranspose, the last one for MatMul and Gemm(transB=0).
2. Biases stay float. Nothing is put between a convolution and its activation, nor on graph outputs.
3. Where a branch joins the result of a convolution (a residual Add), the branch is quantised and the result isn't,
   so that the Add becomes part of the convolution. A Concat is quantised by whoever reads it.
4. MaxPool, ReLU, Reshape, pooling, LRN are left alone: the library moves Q over those that it can run in int8. One
   exception, of INT8: a MaxPool between quantised readers of what it reads and of what it makes (the pool branch of
   an Inception block) reads the dequantised tensor, which changes no value. Otherwise the library moves the Q behind
   it over it and over the pool before it, which is then computed twice (seen in plans of TensorRT for RTX 1.7). In
   FP8 it moves no Q over a pool, and computes none twice.
5. Scales are numbers that float16 holds exactly, because the remainder of the graph is float16.
6. Matrix products, their dequantised inputs and the activations behind them stay float32. In half precision
   TensorRT for RTX 1.7 writes the sums of an INT8 product as float16 before it scales them, and multiplies
   the two scales in float16: the sums exceed 65504 and the product of the scales is subnormal (both seen in
   the plan). With float32 scales the same INT8 kernel runs, with a float32 epilogue. Convolutions have that
   epilogue either way.
7. FP8 (e4m3) is placed the same way: scale amax / 448, weights a scale a channel, zero point 0 of type FP8. What
   TensorRT for RTX 1.7 makes of it, seen in its plans for 8.9 and 12.0: weights may be stored as FP8 or as floats
   behind Q and DQ, with a scale a tensor or a channel; scales may be float16 or float32; any number of channels
   and groups runs in FP8. Rule 6 holds as for INT8, and more so: one product of two FP8 numbers may be 200,704.
8. Some layers have no FP8 kernel, and are built in the type of their dequantised inputs without a word
   (:func:`without_fp8_kernel`). They get no Q/DQ: rounding to FP8 what is multiplied in FP16 brings nothing.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from calibration.e4m3 import LARGEST
from calibration.editor import Editor, Scale
from calibration.ranges import PRODUCTS, WEIGHTED, Ranges
from calibration.table import CalibrationTable, TensorRange
from calibration.weights import half_up
from export.onnxlib import onnx
from export.structure import attribute, label, tensor_specs

FP8_KERNEL_SIZE = 32
"""The most weights a filter of an FP8 convolution may have in space, dilation not counted: 5×6 and 32×1 run in FP8,
6×6 and 33×1 in FP16 (seen in plans of TensorRT for RTX 1.7)."""

_TYPES = {"int8": ("int8", 127.0), "fp8": ("float8_e4m3fn", LARGEST)}


def symmetric(found: TensorRange, precision: str = "int8") -> Scale:
    """Zero point 0, and the largest number of the type for amax: int8's 127, e4m3's 448."""
    dtype, largest = _TYPES[precision]
    step = np.float32(found.amax) / np.float32(largest)
    return Scale(float(half_up(np.array([step]))[0]) if step > 0 else 1.0, dtype=dtype)


def without_fp8_kernel(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that TensorRT for RTX 1.7 has no FP8 kernel for: ConvTranspose, and filters that are large.

    NVIDIA's own quantiser has the same limit on the size of filters for TensorRT, and leaves out convolutions of 16
    channels or fewer too. That isn't done here, since TensorRT for RTX builds them in FP8; the audit of a TensorRT
    engine names the convolutions that stayed float.
    """
    specs = tensor_specs(model)

    def taps(node: onnx.NodeProto) -> int:
        spec = specs.get(node.input[1])
        return math.prod(size for size in spec.shape[2:] if isinstance(size, int)) if spec else 0

    return {
        label(node)
        for node in model.graph.node
        if node.op_type == "ConvTranspose" or (node.op_type == "Conv" and taps(node) > FP8_KERNEL_SIZE)
    }


def weight_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """The dimension of a weight that holds the output channels."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1 if node.op_type in {"Gemm", "ConvTranspose"} else dimensions - 1


def place(editor: Editor, ranges: Ranges, table: CalibrationTable, keep: Collection[str]) -> None:
    """Quantise every convolution and matrix product but those in ``keep``."""
    pairs: dict[str, str] = {}  # the dequantised tensors that don't stay wide

    def quantised(tensor: str, *, wide: bool = False) -> str:
        found = table.range_of(ranges.root(tensor))
        pair = editor.pair(tensor, symmetric(found, table.precision), wide=wide)
        pairs.update({} if wide else {tensor: pair})
        return pair

    def stay_wide(node: onnx.NodeProto) -> None:
        for member in (node, *ranges.following(node)):
            editor.stay_wide(editor.node(member).name)

    for original in ranges.nodes:
        if label(original) in keep:
            continue
        if ranges.is_weighted(original):
            node = editor.node(original)
            product = node.op_type in PRODUCTS
            axis = weight_axis(node, len(editor.shape(node.input[1])))
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
            skip = branch(original, ranges, keep)
            if skip is not None:
                editor.rename_input(editor.node(original), skip, quantised(skip))

    if table.precision == "int8":
        _pool_integers(editor, ranges, keep, pairs)


def _pool_integers(editor: Editor, ranges: Ranges, keep: Collection[str], pairs: Mapping[str, str]) -> None:
    """Rule 4's exception: let a MaxPool between quantised readers read one of ``pairs``, the dequantised tensors."""
    for pool in ranges.nodes:
        if pool.op_type == "MaxPool" and pool.input[0] in pairs and _for_integers(pool, ranges, keep):
            editor.rename_input(editor.node(pool), pool.input[0], pairs[pool.input[0]])


def _for_integers(pool: onnx.NodeProto, ranges: Ranges, keep: Collection[str]) -> bool:
    """Whether all that read what a MaxPool makes are quantised convolutions."""
    readers = ranges.consumers.get(pool.output[0], [])
    return (
        bool(readers)
        and not ranges.is_output(pool.output[0])
        and all(
            node.op_type in {"Conv", "ConvTranspose"} and ranges.is_weighted(node) and label(node) not in keep
            for node in readers
        )
    )


def branch(node: onnx.NodeProto, ranges: Ranges, keep: Collection[str]) -> str | None:
    """The input of a residual Add that isn't the fresh result of a quantised convolution, if the other one is."""

    def fresh(tensor: str) -> bool:
        made_by = ranges.producers.get(tensor)
        alone = len(ranges.consumers.get(tensor, [])) == 1
        return made_by is not None and made_by.op_type in WEIGHTED and alone and label(made_by) not in keep

    first, second = node.input
    if fresh(first) and first != second:
        return str(second)
    return str(first) if fresh(second) and first != second else None
