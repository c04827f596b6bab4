"""Where an INT8 graph rounds, in terms of the module that it was exported from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from calibration.table import CalibrationTable
    from export.onnxlib import onnx
    from export.training.fake_quant import Layer
    from export.training.operands import Operand

_TOLERANCE = 1e-3
"""Folded weights may differ from the graph's by this share of the largest: it is computed in another order."""


@dataclass(frozen=True)
class Rounded:
    """A quantised input of a node.

    Attributes:
        node: of the master graph.
        index: which input.
        range: the name of its range.
    """

    node: "onnx.NodeProto"
    index: int
    range: str


def rounded_inputs(model: "onnx.ModelProto", table: "CalibrationTable") -> list[Rounded]:
    """Every activation that the placement for TensorRT rounds, by who reads it, in graph order."""
    from calibration.qdq import place
    from calibration.ranges import MOVES, Ranges
    from export.structure import label

    ranges = Ranges(model)
    placed = place(model, table, "tensorrt", table.keep).finish().graph
    stored = {node.output[0]: node.input[0] for node in placed.node if node.op_type == "QuantizeLinear"}
    read = {
        node.output[0]: ranges.root(stored[node.input[0]])
        for node in placed.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    masters = {label(node): node for node in model.graph.node}
    return [
        Rounded(masters[node.name], index, read[name])
        for node in placed.node
        if node.op_type not in MOVES  # who reads what it makes rounds to the same numbers
        for index, name in enumerate(node.input)
        if name in read
    ]


def find_sites(
    model: "onnx.ModelProto", table: "CalibrationTable", module: "nn.Module"
) -> "tuple[list[Layer], list[Operand]]":
    """The layers and operands of ``module`` that its graph rounds.

    Args:
        model: the FP32 master graph, as :func:`export.onnx_export.to_onnx` exports it from ``module``.
        table: its ranges.
        module: the network.

    Raises:
        UnsupportedError: a node can't be found in the module, or computes with other weights than it; it is named.
    """
    from calibration.ranges import WEIGHTED
    from export.structure import initializers

    constants = initializers(model.graph)
    modules = dict(module.named_modules())
    layers: dict[str, Layer] = {}
    operands: list[Operand] = []
    for item in rounded_inputs(model, table):
        if item.node.op_type in WEIGHTED and item.node.input[1] in constants:
            layer = _layer(item, constants, modules)
            before = layers.setdefault(layer.path, layer)
            if before.range != layer.range:
                raise _unreachable(item.node, f"'{layer.path}' is used for two tensors")
        else:
            operands.append(_operand(item, model, modules))
    return list(layers.values()), operands


def _layer(item: Rounded, constants: "Mapping[str, onnx.TensorProto]", modules: "Mapping[str, nn.Module]") -> "Layer":
    """The module whose weight a node multiplies with, and the normalisation that was folded into it."""
    from torch import nn

    from calibration.placement.tensorrt import weight_axis
    from calibration.ranges import PRODUCTS
    from export.onnxlib import onnx
    from export.passes.module_names import module_of
    from export.training.fake_quant import Layer, folding_factor

    node = item.node
    path, _, kind = node.input[1].rpartition(".")
    layer: Any = modules.get(path)
    if kind != "weight" or not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        raise _unreachable(node, "it isn't a convolution or linear layer of its own")
    values = onnx.numpy_helper.to_array(constants[node.input[1]])
    weight = layer.weight.detach().numpy()
    if isinstance(layer, nn.Linear) and weight_axis(node, values.ndim) == 1:
        values = values.T
    axis = 1 if node.op_type == "ConvTranspose" else 0
    half_scales = node.op_type not in PRODUCTS
    if _equal(values, weight):
        return Layer(path, item.range, axis, half_scales)
    name = module_of(node) or ""
    norm: Any = modules.get(name)
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not (axis and layer.groups > 1):
        factor = folding_factor(norm).numpy()
        if _equal(values, weight * factor.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])):
            return Layer(path, item.range, axis, half_scales, name)
    raise _unreachable(node, f"the graph computes with other weights than '{path}' has")


def _operand(item: Rounded, model: "onnx.ModelProto", modules: "Mapping[str, nn.Module]") -> "Operand":
    """The place of a sum or product of two activations in the forward of the module that computes it."""
    from export.passes.module_names import module_of
    from export.training.operands import OPERATORS, Operand

    node = item.node
    path = module_of(node) or ""
    if node.op_type not in OPERATORS or path not in modules:
        raise _unreachable(node, "no module of the network computes it")
    kind = [other for other in model.graph.node if other.op_type == node.op_type]
    same = [other.output[0] for other in kind if (module_of(other) or "") == path]
    return Operand(path, node.op_type, same.index(node.output[0]), len(same), item.index, item.range)


def _equal(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE * float(np.abs(b).max(initial=0.0))))


def _unreachable(node: "onnx.NodeProto", reason: str) -> UnsupportedError:
    from export.structure import label

    return UnsupportedError(
        f"{node.op_type} '{label(node)}' can't be quantised while training: {reason}",
        "train without --qat, and calibrate with `toolkit calibrate`",
    )
