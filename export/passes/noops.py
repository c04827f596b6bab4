"""Nodes that do nothing at inference disappear.

1. ``Identity`` and ``Dropout`` (without training mode, or with a constant that says no) hand their input on.
2. An ``AveragePool`` or ``MaxPool`` with a 1×1 kernel, stride 1 and no padding hands its input on.
3. A ``Cast`` to the type that its input has already hands its input on.
4. Where such a node makes a graph output, the tensor that it hands on takes the output's name, unless it is
   a graph input, a constant or another output: then the node stays.
"""

from collections.abc import Mapping, Sequence, Set

from engines.tensors import TensorSpec
from export.onnxlib import onnx
from export.structure import attribute, producers, type_name


def remove_noops(graph: onnx.GraphProto, specs: Mapping[str, TensorSpec] | None = None) -> bool:
    """Apply the rules above.

    Args:
        graph: is changed in place.
        specs: types of the tensors, for rule 3; without them casts stay.

    Returns:
        Whether the graph changed.
    """
    outputs = {value.name for value in graph.output}
    off = {tensor.name for tensor in graph.initializer if _is_false(tensor)}
    modified = False
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if not _does_nothing(node, specs or {}, off) or _read(graph, node.output[1:]):
            continue
        source, result = node.input[0], node.output[0]
        if result in outputs:
            if source in outputs or source not in producers(graph):
                continue
            source, result = result, source  # the output's name stays
        del graph.node[index]
        for other in graph.node:
            for tensors in (other.input, other.output):
                for position, name in enumerate(tensors):
                    if name == result:
                        tensors[position] = source
        modified = True
    return modified


def _read(graph: onnx.GraphProto, tensors: Sequence[str]) -> bool:
    """Whether anything takes one of these tensors: a Dropout's mask may be named, and read by nobody."""
    wanted = {name for name in tensors if name}
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return bool(wanted & read)


def _is_false(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and not onnx.numpy_helper.to_array(tensor).any()


def _does_nothing(node: onnx.NodeProto, specs: Mapping[str, TensorSpec], off: Set[str]) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        return len(node.input) < 3 or not node.input[2] or node.input[2] in off
    if node.op_type in {"AveragePool", "MaxPool"}:
        kernel, strides = attribute(node, "kernel_shape", []), attribute(node, "strides", [])
        return set(kernel) == {1} and set(strides) <= {1} and not any(attribute(node, "pads", []))
    if node.op_type == "Cast":
        spec = specs.get(node.input[0])
        return spec is not None and spec.dtype == type_name(int(attribute(node, "to", 0)))
    return False
