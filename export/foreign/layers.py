"""Layers as calibration and placement know them.

1. What follows a convolution and acts on each channel alone is folded into it: ``BatchNormalization``, and ``Mul``,
   ``Div``, ``Add``, ``Sub`` with a constant a channel. So it is for a ``Gemm``.
2. A ``MatMul`` of a matrix with constant weights and the ``Add`` of a constant row become a ``Gemm``.
3. A ``Pad`` with zeros in front of a convolution becomes the convolution's own padding; one by nothing goes.
4. ``ReduceMean`` over height and width becomes ``GlobalAveragePool`` (and ``Flatten`` where it drops dimensions).

Weights are multiplied in float64 and rounded once.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.foreign.edit import (
    Constants,
    Shape,
    infer,
    insert_before,
    is_plain,
    outputs_of,
    remove_nodes,
    rename_uses,
)
from export.onnxlib import onnx
from export.structure import attribute, consumers, label, producers, remove_unused, set_attribute

Floats = NDArray[np.float64]

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def plain_layers(model: onnx.ModelProto) -> Counter[str]:
    """Apply the rules above.

    Returns:
        How many were folded, by what they were.
    """
    counts: Counter[str] = Counter()
    while _products(model, counts) or _affine(model, counts):
        pass
    _pads(model, counts)
    _averages(model, counts)
    remove_unused(model.graph)
    return counts


def _products(model: onnx.ModelProto, counts: Counter[str]) -> bool:
    """Rule 2."""
    graph, constants, shapes = model.graph, Constants(model.graph), infer(model)
    users, outputs = consumers(graph), outputs_of(graph)
    for node in graph.node:
        weight = constants.shape(node.input[1]) if is_plain(node, "MatMul") else None
        if weight is None or len(weight) != 2 or len(shapes.get(node.input[0], ())) != 2:
            continue
        after = users.get(node.output[0], [])
        if node.output[0] in outputs or len(after) != 1 or not is_plain(after[0], "Add"):
            continue
        add = after[0]
        bias = next((name for name in add.input if constants.shape(name) in {(weight[1],), (1, weight[1])}), None)
        if bias is None:
            continue
        node.op_type = "Gemm"
        node.input.append(bias)
        node.output[0] = add.output[0]
        counts["MatMul with Add"] += 1
        remove_nodes(graph, [add])
        return True
    return False


def _affine(model: onnx.ModelProto, counts: Counter[str]) -> bool:
    """Rule 1, for the first layer where it holds."""
    graph, constants = model.graph, Constants(model.graph)
    users, outputs, shapes = consumers(graph), outputs_of(graph), infer(model)
    for node in graph.node:
        if not is_plain(node, *_CONVOLUTIONS, "Gemm") or node.output[0] in outputs:
            continue
        after = users.get(node.output[0], [])
        weight = constants.input(node, 1) if len(after) == 1 else None
        if weight is None or weight.dtype != np.float32 or not _has_plain_bias(node, constants):
            continue
        axis = _channel_axis(node)
        groups = int(attribute(node, "group", 1)) if node.op_type == "ConvTranspose" else 1
        channels = weight.shape[axis] * groups
        found = _scale_and_shift(after[0], node.output[0], constants, channels, len(shapes.get(node.output[0], ())))
        if found is None:
            continue
        _fold(node, constants, weight, found, axis, groups)
        counts[after[0].op_type] += 1
        node.output[0] = after[0].output[0]
        remove_nodes(graph, [after[0]])
        return True
    return False


def _has_plain_bias(node: onnx.NodeProto, constants: Constants) -> bool:
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if not plain or attribute(node, "transA", 0):
            return False
    shape = constants.shape(node.input[2]) if len(node.input) > 2 and node.input[2] else ()
    return shape is not None and sum(size != 1 for size in shape) <= 1


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _scale_and_shift(
    node: onnx.NodeProto, tensor: str, constants: Constants, channels: int, rank: int
) -> tuple[Floats, Floats] | None:
    """What a node does to each channel of ``tensor``: float64 [channels] each; None where it does something else."""
    one, none = np.ones(channels), np.zeros(channels)
    if is_plain(node, "BatchNormalization"):
        return _normalisation(node, constants, channels)
    if not is_plain(node, "Mul", "Div", "Add", "Sub") or len(node.input) != 2 or rank < 2:
        return None
    place = 1 if node.input[0] == tensor else 0
    value = constants.input(node, place)
    if value is None or (place == 0 and node.op_type in {"Div", "Sub"}):
        return None
    each = _a_channel(value, channels, rank)
    if each is None:
        return None
    if node.op_type in {"Mul", "Div"}:
        return (each if node.op_type == "Mul" else 1.0 / each), none
    return one, (each if node.op_type == "Add" else -each)


def _normalisation(node: onnx.NodeProto, constants: Constants, channels: int) -> tuple[Floats, Floats] | None:
    values = [constants.input(node, index) for index in range(1, 5)]
    if any(value is None or value.shape != (channels,) for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
    return scale, beta - mean * scale


def _a_channel(value: NDArray[Any], channels: int, rank: int) -> Floats | None:
    """A constant that is broadcast over everything but channels, a number a channel."""
    if value.dtype != np.float32 or value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in {1, channels}:
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def _fold(
    node: onnx.NodeProto,
    constants: Constants,
    weight: NDArray[Any],
    found: tuple[Floats, Floats],
    axis: int,
    groups: int,
) -> None:
    scale, shift = found
    bias = constants.input(node, 2)
    old = np.zeros(len(scale)) if bias is None else np.broadcast_to(bias.reshape(-1).astype(np.float64), scale.shape)
    if (scale != 1.0).any():
        wide = weight.astype(np.float64)
        if groups > 1:  # [in, out / groups, ...]: channels of the g-th group of inputs
            parts = np.split(wide, groups, 0)
            factors = np.split(scale, groups)
            wide = np.concatenate(
                [
                    part * factor.reshape(1, -1, *[1] * (wide.ndim - 2))
                    for part, factor in zip(parts, factors, strict=True)
                ]
            )
        else:
            wide *= scale.reshape([-1 if place == axis else 1 for place in range(wide.ndim)])
        node.input[1] = constants.add(wide.astype(np.float32), f"{node.input[1]}.folded")
    name = constants.add((old * scale + shift).astype(np.float32), f"{label(node)}.bias")
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)


def _pads(model: onnx.ModelProto, counts: Counter[str]) -> None:
    """Rule 3."""
    graph, constants = model.graph, Constants(model.graph)
    outputs, gone = outputs_of(graph), list[onnx.NodeProto]()
    for node in graph.node:
        sizes = constants.input(node, 1) if is_plain(node, "Pad") and node.output[0] not in outputs else None
        if sizes is not None and not sizes.any():
            rename_uses(graph, node.output[0], node.input[0])
            gone.append(node)
            counts["Pad"] += 1
    remove_nodes(graph, gone)
    made, users, gone = producers(graph), consumers(graph), []
    for node in graph.node:
        pad = made.get(node.input[0]) if is_plain(node, "Conv") else None
        if pad is None or not is_plain(pad, "Pad") or pad.output[0] in outputs or len(users[pad.output[0]]) != 1:
            continue
        sizes, value = constants.input(pad, 1), constants.input(pad, 2)
        zero = len(pad.input) < 3 or not pad.input[2] or (value is not None and not value.any())
        plain = attribute(pad, "mode", "constant") == "constant" and len(pad.input) < 4 and zero
        if sizes is None or not plain or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            continue
        half = len(sizes) // 2
        if sizes.min() < 0 or sizes[:2].any() or sizes[half : half + 2].any():
            continue
        spatial = [*sizes[2:half], *sizes[half + 2 :]]
        own = attribute(node, "pads", [0] * len(spatial))
        set_attribute(node, "pads", [int(a + b) for a, b in zip(own, spatial, strict=True)])
        node.input[0] = pad.input[0]
        gone.append(pad)
        counts["Pad"] += 1
    remove_nodes(graph, gone)


def _averages(model: onnx.ModelProto, counts: Counter[str]) -> None:
    """Rule 4."""
    graph, constants, shapes = model.graph, Constants(model.graph), infer(model)
    for node in [item for item in graph.node if is_plain(item, "ReduceMean")]:
        shape: Shape = shapes.get(node.input[0], ())
        axes = constants.input(node, 1)
        if len(shape) != 4 or axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
            continue
        keeps = bool(attribute(node, "keepdims", 1))
        del node.attribute[:], node.input[1:]
        node.op_type = "GlobalAveragePool"
        counts["ReduceMean"] += 1
        if not keeps:
            result = node.output[0]
            node.output[0] = constants.tensor(f"{label(node)}.pooled")
            flat = onnx.helper.make_node("Flatten", [node.output[0]], [result], f"{label(node)}.flatten", axis=1)
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            insert_before(graph, node, [copy])
            node.CopyFrom(flat)
