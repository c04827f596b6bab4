"""Rounding as fine as that of a pair of Q and DQ, but without its limits."""

from typing import Any

import numpy as np

from calibration.bisection.sides import Side
from export.light import stub
from export.onnxlib import onnx
from export.structure import LIGHT, attribute, initializers, names, skeleton, unique

SLACK = 4.0
"""How much coarser than needed an activation may be rounded before that counts as the range's fault: two bits.

Ranges are chosen on other images than are measured here, and one image may need twice what most do."""

_INTEGERS: dict[int, tuple[int, bool]] = {onnx.TensorProto.INT8: (127, True), onnx.TensorProto.UINT8: (255, False)}
"""The steps that a range has, and whether they reach as far below zero as above."""

_FP8_HEADROOM = 16.0
"""FP8's steps grow with the value: a scale that is 16 times as large clips nothing and costs next to nothing."""

_TINY = np.float32(np.finfo(np.float32).tiny)
"""In place of a step of 0, where a tensor is all zeros."""

_LARGEST_HALF = 65504.0

_CODES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}


class Canvas:
    """A graph in the making, with the constants of another and none of its nodes.

    Args:
        side: the other graph.

    Attributes:
        model, graph: what is made.
        arrays: its large weights (:mod:`calibration.light`).
    """

    def __init__(self, side: Side) -> None:
        self.model = skeleton(side.model)
        self.graph = self.model.graph
        del self.graph.node[:], self.graph.input[:], self.graph.output[:], self.graph.value_info[:]
        self.graph.initializer.extend(side.model.graph.initializer)
        self.arrays = dict(side.arrays)
        self._taken = names(side.model.graph)

    def constant(self, values: Any, name: str) -> str:
        """A new constant; returns its name, which is ``name`` unless that is taken."""
        name = unique(name, self._taken)
        array = np.asarray(values)
        if array.nbytes > LIGHT and array.dtype in (np.float32, np.float16):
            self.arrays[name] = np.ascontiguousarray(array)
            self.graph.initializer.append(stub(name, array.dtype, array.shape))
        else:
            self.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def borrow(self, side: Side, constant: str, name: str) -> None:
        """A constant of another graph under a new name."""
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(initializers(side.model.graph)[constant])
        tensor.name = name
        if constant in side.arrays:
            self.arrays[name] = side.arrays[constant]

    def copy(self, node: onnx.NodeProto, name: str) -> onnx.NodeProto:
        """A copy of a node under another name, to be rewired."""
        copy: onnx.NodeProto = self.graph.node.add()
        copy.CopyFrom(node)
        copy.name = name
        return copy

    def make(self, operator: str, read: list[str], made: str, **attributes: Any) -> str:
        """A new node; returns what it makes."""
        self.graph.node.append(onnx.helper.make_node(operator, read, [made], made, **attributes))
        return made

    def cast(self, source: str, result: str, dtype: str) -> str:
        """A tensor in another type; returns its name."""
        return self.make("Cast", [source], result, to=_CODES.get(dtype, onnx.TensorProto.FLOAT))


def unlimited(canvas: Canvas, side: Side, node: onnx.NodeProto, source: str, result: str) -> bool:
    """Put rounding without limits in place of a DequantizeLinear and the QuantizeLinear before it.

    Args:
        canvas: where to.
        side: the graph of ``node``.
        node: the DequantizeLinear.
        source: what is read in place of the QuantizeLinear's input.
        result: what the rounded values are called.

    Returns:
        Whether it was done; it isn't where they are no pair of one constant scale.
    """
    quantize, constants = side.made_by.get(node.input[0]), side.constants
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.input[1] not in constants:
        return False
    scale = constants.values(quantize.input[1]).reshape(-1)
    other = constants.values(node.input[1]).reshape(-1) if node.input[1] in constants else scale[:0]
    zero = quantize.input[2] if len(quantize.input) > 2 else ""
    kind = constants.kind(zero) if zero in constants else int(attribute(quantize, "output_dtype", 0))
    if scale.size != 1 or not np.array_equal(scale, other) or not scale[0] > 0:
        return False
    if kind == int(onnx.TensorProto.FLOAT8E4M3FN):
        _fp8(canvas, side, (quantize, node), source, result, float(scale[0]))
    elif kind in _INTEGERS:
        _integers(canvas, source, result, float(scale[0]), kind, side.dtype(node.output[0]))
    else:
        return False
    return True


def _integers(canvas: Canvas, source: str, result: str, scale: float, kind: int, dtype: str) -> None:
    steps, symmetric = _INTEGERS[kind]
    make, new, at = canvas.make, canvas.constant, result
    values = canvas.cast(source, f"{at}/values", "float32")
    if symmetric:
        reach = make("ReduceMax", [make("Abs", [values], f"{at}/abs")], f"{at}/reach", keepdims=0)
    else:
        zero = new(np.float32(0), f"{at}/zero")
        high = make("ReduceMax", [values], f"{at}/high", keepdims=0)
        low = make("ReduceMin", [values], f"{at}/low", keepdims=0)
        ends = make("Max", [high, zero], f"{at}/top"), make("Min", [low, zero], f"{at}/bottom")
        reach = make("Sub", list(ends), f"{at}/reach")
    coarse = make("Mul", [reach, new(np.float32(SLACK / steps), f"{at}/share")], f"{at}/coarse")
    needed = make("Max", [coarse, new(_TINY, f"{at}/tiny")], f"{at}/needed")
    step = make("Min", [needed, new(np.float32(scale), f"{at}/scale")], f"{at}/step")
    whole = make("Round", [make("Div", [values, step], f"{at}/scaled")], f"{at}/whole")
    canvas.cast(make("Mul", [whole, step], f"{at}/rounded"), result, dtype)


def _fp8(
    canvas: Canvas, side: Side, pair: tuple[onnx.NodeProto, onnx.NodeProto], source: str, result: str, scale: float
) -> None:
    stored = f"{result}/stored"
    for node, read, made in zip(pair, (source, stored), (stored, result), strict=True):
        dtype = np.float16 if side.dtype(node.input[1]) == "float16" else np.float32
        step = canvas.constant(dtype(min(scale * _FP8_HEADROOM, _LARGEST_HALF)), f"{made}/scale")
        copy = canvas.copy(node, made)
        copy.input[0], copy.input[1], copy.output[0] = read, step, made
