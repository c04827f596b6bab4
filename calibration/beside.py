"""The FP32 graph with every quantised node beside its original, on the same input: what each adds by itself.

The quantised nodes are those that :func:`calibration.qdq.quantise` made, so whatever it places is what is measured.
The main path is its graph with every Q/DQ bypassed, and its weighted nodes as they were before.
"""

from collections.abc import Mapping

import numpy as np

from calibration.equalise import equalise
from calibration.qdq import quantise
from calibration.ranges import WEIGHTED
from calibration.rewrite import constants
from calibration.shift import has_bias
from calibration.table import CalibrationTable
from export.onnxlib import onnx
from export.structure import initializers, label, names, producers, remove_unused, topological_sort, unique


def beside(model: onnx.ModelProto, table: CalibrationTable) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A graph that tells the mean error of each quantised node that has a bias, or can have one.

    Args:
        model: the FP32 master graph; it isn't changed.
        table: how it is quantised.

    Returns:
        The graph, and by the name of a node the output that holds its error, float32 [channels]: the mean over images
        and positions of what quantising its weights and its input adds to its output.

    Raises:
        TableError, GraphError: as for :func:`calibration.qdq.quantise`.
    """
    plain = equalise(model, table.equalisation)
    originals, known = {label(node): node for node in plain.graph.node}, constants(plain.graph)
    result = quantise(model, table, "tensorrt", remainder="fp32")
    graph = result.graph
    opset = next(item.version for item in result.opset_import if item.domain in {"", "ai.onnx"})
    makers = {name: _copy(node) for name, node in producers(graph).items()}
    there = {*makers, *initializers(graph)}
    taken = names(graph) | names(plain.graph)
    added: list[onnx.NodeProto] = []
    errors: dict[str, str] = {}
    for node in graph.node:
        quantised, original = _copy(node), originals.get(node.name)
        if node.op_type == "QuantizeLinear" or original is None:
            continue
        for index, name in enumerate(node.input):
            node.input[index] = _unquantised(name, makers)
        if original.op_type not in WEIGHTED or quantised.input[1] == original.input[1]:
            continue
        node.CopyFrom(original)
        for name in original.input[1:]:
            if name in known and name not in there:
                graph.initializer.add().CopyFrom(known[name])
                graph.initializer[-1].name = name
                there.add(name)
        if has_bias(original, known):
            errors[label(original)] = mean = unique(f"{original.output[0]}.error", taken)
            quantised.output[0] = quantised.name = unique(f"{original.output[0]}.quantised", taken)
            difference = unique(f"{original.output[0]}.difference", taken)
            subtract = onnx.helper.make_node("Sub", [quantised.output[0], original.output[0]], [difference])
            rank = len(known[original.input[1]].dims)
            added.extend([quantised, subtract, *_mean(difference, mean, rank, opset)])
    graph.node.extend(added)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in errors.values())
    topological_sort(graph)
    remove_unused(graph)
    return result, errors


def _unquantised(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """What ``tensor`` is before it is quantised and dequantised; itself if it isn't."""
    dequantize = makers.get(tensor)
    quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
    return str(quantize.input[0]) if quantize and quantize.op_type == "QuantizeLinear" else tensor


def _mean(tensor: str, output: str, rank: int, opset: int) -> list[onnx.NodeProto]:
    """Nodes for the mean over all dimensions but axis 1; its axes are an attribute before opset 18."""
    axes = [axis for axis in range(rank) if axis != 1]
    if opset < 18:
        return [onnx.helper.make_node("ReduceMean", [tensor], [output], axes=axes, keepdims=0)]
    values = onnx.numpy_helper.from_array(np.array(axes, np.int64))
    return [
        onnx.helper.make_node("Constant", [], [f"{output}.axes"], value=values),
        onnx.helper.make_node("ReduceMean", [tensor, f"{output}.axes"], [output], keepdims=0),
    ]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
