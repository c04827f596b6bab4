"""The same network under other names, and other harmless rewrites."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def renamed(model: onnx.ModelProto, prefix: str = "export2/") -> onnx.ModelProto:
    """A copy in which every tensor and node but the input and the output has another name."""
    result = copy_of(model)
    fixed = {value.name for value in (*result.graph.input, *result.graph.output)} | {""}

    def new(name: str) -> str:
        return name if name in fixed else prefix + name[::-1]

    for node in result.graph.node:
        node.name = prefix + node.name[::-1]
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in result.graph.initializer:
        tensor.name = new(tensor.name)
    onnx.checker.check_model(result, full_check=True)
    return result


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def insert(model: onnx.ModelProto, before: str, *nodes: onnx.NodeProto) -> None:
    place = [node.name for node in model.graph.node].index(before)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)


def values_of(model: onnx.ModelProto, name: str):
    return numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == name))


def give(model: onnx.ModelProto, **constants) -> None:
    """Set or add constants."""
    for name, values in constants.items():
        known = next((item for item in model.graph.initializer if item.name == name), None)
        (known or model.graph.initializer.add()).CopyFrom(numpy_helper.from_array(values, name))


def otherwise_exported(model: onnx.ModelProto) -> onnx.ModelProto:
    """The tiny graph as another exporter writes it: Identity, Reshape for Flatten, defaults said, other names."""
    result = copy_of(model)
    flatten = node_of(result, "flatten")
    flatten.op_type = "Reshape"
    flatten.ClearField("attribute")
    flatten.input.append("shape")
    give(result, shape=np.array([0, -1], np.int64))
    node_of(result, "conv2").attribute.extend(
        [helper.make_attribute("group", 1), helper.make_attribute("dilations", [1, 1])]
    )
    node_of(result, "conv2").attribute.append(helper.make_attribute("kernel_shape", [3, 3]))
    node_of(result, "fc1").attribute.append(helper.make_attribute("alpha", 1.0))
    identity = helper.make_node("Identity", ["flat"], ["same"], "same")
    insert(result, "fc1", identity, helper.make_node("Dropout", ["same"], ["kept"], "dropout"))
    node_of(result, "fc1").input[0] = "kept"
    return renamed(result)
