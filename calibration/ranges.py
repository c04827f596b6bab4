"""Which tensors of a graph need a range, which share one, and where it is measured.

A range is wanted for every activation that a quantised operator reads or writes, whatever the target. Operators
such as MaxPool and Reshape only choose or move values, so what they read and write shares one scale: those tensors
form a group with the name of its first tensor. Its range is measured where the group is smallest, after the pooling.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.errors import GraphError
from export.graph import read_derived
from export.onnxlib import onnx
from export.structure import attribute, consumers, producers, tensor_specs

if TYPE_CHECKING:
    from collections.abc import Sequence

MOVES = frozenset(
    {"MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
)
"""Operators whose output holds only values of their first input."""

PRODUCTS = frozenset({"Gemm", "MatMul"})

WEIGHTED = PRODUCTS | {"Conv", "ConvTranspose"}
"""Operators that a quantised kernel computes with constant weights."""

JOINING = frozenset({"Add", "Concat"})
"""Operators that join branches, with a quantised kernel of their own on some targets."""

AVERAGING = frozenset({"AveragePool", "GlobalAveragePool"})

ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu"})
"""Operators that follow a quantised one within the same step."""


@dataclass(frozen=True)
class Group:
    """Tensors that share one range.

    Attributes:
        name: the first tensor, which no operator of :data:`MOVES` makes.
        members: all of them, the first included.
        tap: the member at which the range is measured.
    """

    name: str
    members: tuple[str, ...]
    tap: str


class Ranges:
    """The groups of a graph's activations.

    Args:
        model: the FP32 graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.producers = producers(graph)
        self.consumers = consumers(graph)
        self.constants = constant_names(graph)
        self._specs = tensor_specs(model)
        self._outputs = {value.name for value in graph.output}
        self.nodes: Sequence[onnx.NodeProto] = graph.node

    def root(self, tensor: str) -> str:
        """The name of the group that ``tensor`` belongs to."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in MOVES:
            tensor = node.input[0]
            node = self.producers.get(tensor)
        return tensor

    def is_activation(self, tensor: str) -> bool:
        """Whether ``tensor`` is computed from the input and holds float32."""
        if not tensor or tensor in self.constants:
            return False
        return tensor in self._specs and self._specs[tensor].dtype == "float32"

    def is_weighted(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` is a convolution or matrix product of an activation with constant float32 weights."""
        if node.op_type not in WEIGHTED or not self.is_activation(node.input[0]) or attribute(node, "transA", 0):
            return False
        weight = self._specs.get(node.input[1])
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0 and not self._constant(node, 2):
            return False
        return node.input[1] in self.constants and weight is not None and weight.dtype == "float32"

    def is_joining(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` adds or concatenates two or more different activations."""
        return (
            node.op_type in JOINING
            and len(set(node.input)) > 1
            and all(self.is_activation(name) for name in node.input)
        )

    def is_averaging(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` is an average pooling of an activation."""
        return node.op_type in AVERAGING and self.is_activation(node.input[0])

    def is_product(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` is a matrix product of two activations."""
        return node.op_type == "MatMul" and all(self.is_activation(name) for name in node.input)

    def _constant(self, node: onnx.NodeProto, index: int) -> bool:
        """Whether an input of ``node`` is a constant, or isn't there."""
        return len(node.input) <= index or not node.input[index] or node.input[index] in self.constants

    def following(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The activations that follow ``node`` within the same step of a quantised kernel."""
        found: list[onnx.NodeProto] = []
        tensor = node.output[0]
        while tensor not in self._outputs:
            users = self.consumers.get(tensor, [])
            if len(users) != 1 or users[0].op_type not in ACTIVATIONS:
                break
            found.append(users[0])
            tensor = users[0].output[0]
        return found

    def result(self, node: onnx.NodeProto) -> str:
        """The tensor that a quantised ``node`` leaves behind: that of the activation that follows it, if one does."""
        return str([node, *self.following(node)][-1].output[0])

    def is_output(self, tensor: str) -> bool:
        """Whether a caller gets this tensor or one of its group."""
        return any(member in self._outputs for member in self.group(tensor).members)

    def group(self, tensor: str) -> Group:
        """The group of ``tensor``."""
        name = self.root(tensor)
        members = [name]
        for member in members:
            for node in self.consumers.get(member, []):
                if _moves(node, member):
                    members.append(node.output[0])  # noqa: PERF401 - the list grows while it is walked
        tap = name
        while tap not in self._outputs:
            users = self.consumers.get(tap, [])
            if len(users) != 1 or not _moves(users[0], tap):
                break
            tap = users[0].output[0]
        return Group(name, tuple(members), tap)

    def wanted(self) -> dict[str, Group]:
        """Every group that some target quantises, by name, in graph order."""
        groups: dict[str, Group] = {}

        def want(tensor: str) -> None:
            if self.is_activation(tensor):
                group = self.group(tensor)
                groups.setdefault(group.name, group)

        for node in self.nodes:
            if self.is_joining(node) or self.is_product(node):
                read = list(node.input)
            elif self.is_weighted(node) or self.is_averaging(node):
                read = [node.input[0]]
            else:
                continue
            for tensor in (*read, *self._after(node)):
                want(tensor)
        return groups

    def _after(self, node: onnx.NodeProto) -> list[str]:
        result = self.result(node)
        return [] if self.is_output(result) else [result]


def constant_names(graph: onnx.GraphProto) -> set[str]:
    """Tensors whose values the graph itself gives: initializers and results of Constant."""
    names = {tensor.name for tensor in graph.initializer}
    names.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    return names


def _moves(node: onnx.NodeProto, tensor: str) -> bool:
    """Whether ``node`` only moves or chooses values of ``tensor``."""
    return node.op_type in MOVES and node.input[0] == tensor


def refuse_typed(model: onnx.ModelProto, name: str = "the graph") -> None:
    """Refuse a graph that has a precision or Q/DQ nodes already.

    Args:
        model: the graph.
        name: what the error calls it.

    Raises:
        GraphError: it isn't an FP32 master graph.
    """
    derived = read_derived(model)
    if derived is not None or any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        found = derived.precision if derived else "quantised"
        raise GraphError(f"{name} is {found} already, not a master graph", "give the FP32 graph that it came from")
