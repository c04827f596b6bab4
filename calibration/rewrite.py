"""Gives a graph other constants, and copies only those that stay."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from export.light import NO_ARRAYS, Arrays, values_of
from export.onnxlib import onnx
from export.structure import attribute, has_subgraphs, initializers, label, names, set_attribute, skeleton, unique


class Rewrite:
    """A graph in the making that differs from another in its constants.

    Args:
        model: the graph that it starts from, which isn't changed.
        arrays: the values of those of its constants that are stubs (:mod:`export.light`).

    Attributes:
        constants: the tensors whose values the source graph gives.
        nodes: the new graph's nodes by :func:`export.structure.label`.
    """

    def __init__(self, model: onnx.ModelProto, arrays: Arrays = NO_ARRAYS) -> None:
        self._source = model
        self._model = skeleton(model)
        self.constants = constants(model.graph)
        self._uses = uses(model.graph)
        self._taken = names(model.graph)
        self._arrays = arrays
        self._new: dict[str, NDArray[Any]] = {}
        self.nodes: dict[str, onnx.NodeProto] = {label(node): node for node in self._model.graph.node}

    def is_shared(self, tensor: str) -> bool:
        """Whether it has more than one reader."""
        return self._uses[tensor] > 1

    def values(self, tensor: str) -> NDArray[Any]:
        """The values of a constant, as last set; not to be written to."""
        return self._new[tensor] if tensor in self._new else values_of(self.constants[tensor], self._arrays)

    def set(self, tensor: str, values: NDArray[Any]) -> None:
        """Give a constant other values."""
        self._new[tensor] = values

    def add(self, wanted: str, values: NDArray[Any]) -> str:
        """A new constant; returns its name, which is ``wanted`` unless that is taken."""
        name = unique(wanted, self._taken)
        self._new[name] = values
        return name

    def finish(self) -> onnx.ModelProto:
        """The new graph; what was a stub and stays the same is one."""
        graph = self._model.graph
        for tensor in self._source.graph.initializer:
            values = self._new.pop(tensor.name, None)
            made = tensor if values is None else onnx.numpy_helper.from_array(values, tensor.name)
            graph.initializer.add().CopyFrom(made)
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in self._new:
                values = self._new.pop(node.output[0])
                set_attribute(node, "value", onnx.numpy_helper.from_array(values, node.output[0]))
        for name, values in self._new.items():
            graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(values, name))
        return self._model


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors whose values the graph gives, as initializers or by Constant nodes."""
    made = {node.output[0]: attribute(node, "value") for node in graph.node if node.op_type == "Constant"}
    return {name: tensor for name, tensor in made.items() if tensor is not None} | initializers(graph)


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """How many read each tensor: inputs of nodes and outputs of the graph, those of graphs inside nodes included."""
    return Counter(_read(graph))


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        if has_subgraphs(node):
            for item in node.attribute:
                for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                    yield from _read(inner)
