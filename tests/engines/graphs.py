"""Typed and quantised variants of the tiny graph, made with onnx.helper alone."""

from collections.abc import Collection

import numpy as np
import onnx
from ml_dtypes import bfloat16, float8_e4m3fn
from onnx import TensorProto, helper, numpy_helper

from tests.tiny import tiny_graph

HALF, BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16
QUANTISED = TensorProto.INT8  # of either type: what needs no cast


def typed_graph(model: onnx.ModelProto, kind: int = HALF, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with its float initializers in ``kind``, between casts at its input and output.

    Nodes in ``keep`` stay FP32, with casts where they meet the others.
    """
    result = onnx.ModelProto.FromString(model.SerializeToString())
    graph = result.graph
    if kind == BF16:
        result.opset_import[0].version = 22
    kept = {name for node in graph.node if node.name in keep for name in node.input}
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and tensor.name not in kept:
            target = np.float16 if kind == HALF else bfloat16
            tensor.CopyFrom(numpy_helper.from_array(values.astype(target), tensor.name))
    nodes = []
    types = {"input": TensorProto.FLOAT}
    names = {"input": "input"}

    def as_type(tensor: str, wanted: int) -> str:
        if tensor in constants or types[tensor] in {wanted, QUANTISED}:
            return names.get(tensor, tensor)
        name = f"{tensor}.cast{wanted}"
        if name not in types:
            nodes.append(helper.make_node("Cast", [names[tensor]], [name], name, to=wanted))
            types[name] = wanted
        return name

    for node in graph.node:
        wanted = TensorProto.FLOAT if node.name in keep else kind
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [as_type(name, wanted) for name in node.input]
        for output in node.output:
            types[output] = QUANTISED if node.op_type == "QuantizeLinear" else wanted
            names[output] = "logits.typed" if output == "logits" else output
        copy.output[:] = [names[output] for output in node.output]
        nodes.append(copy)
    to = TensorProto.FLOAT
    nodes.append(helper.make_node("Cast", ["logits.typed"], ["logits"], "cast_out", to=to))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def quantised_graph(
    model: onnx.ModelProto,
    *,
    skip: Collection[str] = (),
    wrong_axis: Collection[str] = (),
    per_channel_activation: Collection[str] = (),
    fp8: bool = False,
) -> onnx.ModelProto:
    """The graph with Q/DQ on the inputs of every Conv and Gemm, per-channel weights on axis 0.

    Args:
        model: an FP32 graph.
        skip: nodes left without Q/DQ.
        wrong_axis: nodes whose weight scales lie along axis 1.
        per_channel_activation: nodes whose activation has a scale a channel.
        fp8: store e4m3 in place of int8.
    """
    stored, largest = (np.dtype(float8_e4m3fn), 448) if fp8 else (np.dtype(np.int8), 127)
    result = onnx.ModelProto.FromString(model.SerializeToString())
    graph = result.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    added: dict[str, np.ndarray] = {}
    nodes = []

    def pair(name: str, tensor: str, scale: np.ndarray, axis: int) -> str:
        """Q and DQ of an activation."""
        added[f"{name}.s"], added[f"{name}.z"] = scale, np.zeros(scale.shape, stored)
        for op, source in (("QuantizeLinear", tensor), ("DequantizeLinear", f"{name}.QuantizeLinear")):
            inputs, output = [source, f"{name}.s", f"{name}.z"], f"{name}.{op}"
            nodes.append(helper.make_node(op, inputs, [output], output, axis=axis))
        return f"{name}.DequantizeLinear"

    for node in list(graph.node):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type in {"Conv", "Gemm"} and node.name not in skip:
            values = weights[node.input[1]]
            channelled = node.name in per_channel_activation
            scale = np.full(values.shape[1], 0.02, np.float32) if channelled else np.float32(0.02)
            copy.input[0] = pair(f"{node.name}.x", node.input[0], np.asarray(scale), 1)
            axis = 1 if node.name in wrong_axis else 0
            others = tuple(i for i in range(values.ndim) if i != axis)
            amax = np.abs(values).max(others, keepdims=True).astype(np.float32)
            name = f"{node.name}.w"
            scaled = values / (amax / largest)
            added[f"{name}.q"] = (scaled if fp8 else np.rint(scaled)).astype(stored)
            added[f"{name}.s"] = (amax / largest).reshape(-1)
            added[f"{name}.z"] = np.zeros(amax.size, stored)
            inputs = [f"{name}.q", f"{name}.s", f"{name}.z"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], f"{name}.dq", axis=axis))
            copy.input[1] = f"{name}.dq"
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(values, name) for name, values in added.items()]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(result, full_check=True)
    return result


def int8_graph(**faults: Collection[str]) -> onnx.ModelProto:
    """The tiny graph with Q/DQ and an FP16 remainder."""
    return typed_graph(quantised_graph(tiny_graph(lrn=True), **faults))


def fp8_graph(**faults: Collection[str]) -> onnx.ModelProto:
    """The tiny graph with Q/DQ in FP8 and an FP16 remainder."""
    return typed_graph(quantised_graph(tiny_graph(lrn=True), fp8=True, **faults))
