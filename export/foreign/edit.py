"""Small changes to a graph that the passes over a foreign one share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.onnxlib import onnx
from export.structure import has_subgraphs, light_copy, names, unique

Shape = tuple[int | None, ...]

PLAIN = frozenset({"", "ai.onnx"})
"""How the standard domain is written."""


class Constants:
    """The values of a graph's initializers, read when they are asked for, and new ones."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = names(graph)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> NDArray[Any] | None:
        """The values of a constant; None for what isn't one."""
        tensor = self._tensors.get(name) if name else None
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor))

    def input(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        """The values of a node's input; None where it isn't a constant, or isn't there."""
        return self.get(node.input[index]) if index < len(node.input) else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, without its values; None for what isn't one."""
        tensor = self._tensors.get(name) if name else None
        return None if tensor is None else tuple(map(int, tensor.dims))

    def add(self, values: Any, wanted: str) -> str:
        """A new constant; its name is ``wanted``, or that with a number where it is taken."""
        name = unique(wanted, self._taken)
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        self._tensors[name] = self.graph.initializer[-1]
        return name

    def tensor(self, wanted: str) -> str:
        """A name for a new tensor."""
        return unique(wanted, self._taken)


def rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every node read ``new`` in place of ``old``."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new


def outputs_of(graph: onnx.GraphProto) -> set[str]:
    """The names of what a caller gets."""
    return {value.name for value in graph.output}


def is_plain(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is of the standard domain, and one of these operators where they are given."""
    return node.domain in PLAIN and (not operators or node.op_type in operators)


def remove_nodes(graph: onnx.GraphProto, gone: Sequence[onnx.NodeProto]) -> None:
    """Remove nodes by identity."""
    keys = {id(node) for node in gone}
    for index in reversed(range(len(graph.node))):
        if id(graph.node[index]) in keys:
            del graph.node[index]


def insert_before(graph: onnx.GraphProto, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
    """Put new nodes in front of one."""
    index = next(position for position, other in enumerate(graph.node) if other is node or other == node)
    for offset, item in enumerate(new):
        graph.node.insert(index + offset, item)


def with_subgraphs(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that hold graphs of their own."""
    return [node for node in graph.node if has_subgraphs(node)]


def infer(
    model: onnx.ModelProto, sizes: Mapping[str, Sequence[int | str | None]] | None = None, *, strict: bool = False
) -> dict[str, Shape]:
    """The shapes that onnx infers where inputs have these sizes; what the file claims of other tensors is ignored.

    Args:
        model: the graph.
        sizes: by input; others are taken as they are declared. A name, or None, is a dimension that varies.
        strict: an operator that can't take its inputs is an error.

    Returns:
        The shapes of the tensors whose rank is known; None is an unknown size.

    Raises:
        onnx.shape_inference.InferenceError: with ``strict``.
    """
    light = light_copy(model)
    del light.graph.value_info[:]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in light.graph.input:
        if sizes is not None and value.name in sizes:
            set_shape(value, sizes[value.name])
    inferred = onnx.shape_inference.infer_shapes(light, strict_mode=strict, data_prop=True).graph
    found: dict[str, Shape] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)
    for tensor in model.graph.initializer:
        found[tensor.name] = tuple(map(int, tensor.dims))
    return found


def set_shape(value: onnx.ValueInfoProto, sizes: Sequence[int | str | None]) -> None:
    """Declare a tensor's shape: numbers, names, or None for what is unknown."""
    shape = value.type.tensor_type.shape
    shape.ClearField("dim")
    shape.SetInParent()
    for size in sizes:
        dim = shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
