"""Two graphs of one network side by side: which tensor of one holds what which tensor of the other holds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.bisection.light import LightConstants
from calibration.foreign_scales import float_weight
from calibration.light import lighten
from calibration.likeness import FOLDED, Likeness, is_transparent, likeness
from calibration.ranges import PRODUCTS, WEIGHTED
from engines.errors import GraphError
from engines.tensors import TensorSpec
from export.graph import inputs, module_of
from export.onnxlib import onnx
from export.passes.constants import constants_to_initializers
from export.passes.lift_opset import lift_opset
from export.structure import consumers, label, producers, tensor_specs

FLOATS = frozenset({"float32", "float16", "bfloat16"})


class Side:
    """One of the graphs, read.

    Args:
        model: the graph, which is changed: its Constant nodes become initializers.
        name: what errors call it.

    Attributes:
        model: a copy with stubs in place of large weights (:mod:`calibration.light`).
        arrays: those weights.
        name: as given.
        made_by: the node that makes each tensor.
        users: the nodes that read each tensor.
        constants: the values that the graph gives.
        specs: type and shape of every tensor.
        computed: tensors that depend on the graph's input.
        input, output: the tensor that a caller feeds, and the first that one gets.

    Raises:
        GraphError: it has several inputs, or types that contradict each other.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        constants_to_initializers(model.graph)
        self.model, self.arrays = lighten(model)
        self.name, model = name, self.model
        self.made_by = producers(model.graph)
        self.users = consumers(model.graph)
        self.constants = LightConstants(model, self.arrays)
        self.specs: Mapping[str, TensorSpec] = tensor_specs(model)
        given = inputs(model)
        if len(given) != 1:
            raise GraphError(f"{name} has {len(given)} inputs, not one", "give a classifier's graph")
        self.input, self.output = given[0].name, model.graph.output[0].name
        self.computed = {self.input}
        for node in model.graph.node:
            if self.computed.intersection(node.input):
                self.computed.update(node.output)
        self._likeness: Likeness | None = None

    @property
    def nodes(self) -> Iterable[onnx.NodeProto]:
        """In graph order."""
        nodes: Iterable[onnx.NodeProto] = self.model.graph.node
        return nodes

    @property
    def likeness(self) -> Likeness:
        """The place of every activation in the structure."""
        if self._likeness is None:
            self._likeness = likeness(self.model)
        return self._likeness

    def opset(self) -> int:
        """Of the graph's ONNX operators."""
        return next(int(item.version) for item in self.model.opset_import if item.domain in {"", "ai.onnx"})

    def dtype(self, tensor: str) -> str:
        """By numpy's name; "float32" where it isn't known."""
        return self.specs[tensor].dtype if tensor in self.specs else "float32"

    def results(self) -> Iterator[str]:
        """The activations that an operator makes, not those that only store another one."""
        for node in self.nodes:
            tensor = node.output[0]
            if tensor in self.computed and not is_transparent(node) and self.dtype(tensor) in FLOATS:
                yield tensor

    def source(self, tensor: str) -> str:
        """The tensor that Q/DQ nodes and casts before this one only store otherwise."""
        node = self.made_by.get(tensor)
        while node is not None and is_transparent(node):
            tensor = node.input[0]
            node = self.made_by.get(tensor)
        return tensor

    def weighted(self) -> list[onnx.NodeProto]:
        """Convolutions and matrix products of an activation with something that the graph gives."""
        return [
            node
            for node in self.nodes
            if node.op_type in WEIGHTED and node.input[0] in self.computed and node.input[1] not in self.computed
        ]

    def values(self, tensor: str) -> NDArray[np.float32] | None:
        """What reaches a node from a constant, dequantised; None where the graph computes it in another way."""
        return float_weight(tensor, self.constants, self.made_by)


@dataclass(frozen=True)
class Pairs:
    """What belongs together.

    Attributes:
        tensors: by the name of an activation of the second graph, that of the first; in the second's order.
        weighted: by the first output of a convolution or product of the second graph, the node of the first.
    """

    tensors: dict[str, str]
    weighted: dict[str, onnx.NodeProto]


def same_opset(first: onnx.ModelProto, second: onnx.ModelProto) -> None:
    """Lift the graph of the older opset to the other's, so that nodes of both can be in one graph.

    Raises:
        GraphError: an operator can't be lifted.
    """
    versions = [
        next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
        for model in (first, second)
    ]
    for model in (first, second):
        lift_opset(model, max(versions))


def pair(first: Side, second: Side) -> Pairs:
    """Which tensors hold the same: by name and place in the structure, by place, by name, by PyTorch module.

    Raises:
        GraphError: the graphs take different inputs, or nothing of one is found in the other.
    """
    fed, taken = first.specs[first.input], second.specs[second.input]
    if not _alike(fed, taken) or (fed.dtype == "uint8") != (taken.dtype == "uint8"):
        raise GraphError(
            f"the graphs take different inputs: {fed} and {taken}", "give two graphs of one network and preprocessing"
        )
    finder = _Finder(first, second)
    tensors = finder.find()
    weighted = _weighted(first, second, tensors)
    if not weighted and not any(second.made_by[name].op_type in WEIGHTED for name in tensors):
        raise GraphError(
            f"no convolution or matrix product of {second.name} is found in {first.name}",
            "give two graphs of one network",
        )
    return Pairs(tensors, weighted)


class _Finder:
    def __init__(self, first: Side, second: Side) -> None:
        self._first, self._second = first, second
        self._left_first, self._left_second = list(first.results()), list(second.results())
        self._found: dict[str, str] = {}

    def find(self) -> dict[str, str]:
        places, others = self._first.likeness.tensors, self._second.likeness.tensors
        for name in list(self._left_second):
            if name in self._left_first and places.get(name, "") == others.get(name, "-"):
                self._take(name, name)
        self._by(places, others)
        for name in list(self._left_first):
            there = self._second.source(name)
            if there in self._left_second and self._same_operator(name, there):
                self._take(there, name)
        self._by(_modules(self._first), _modules(self._second))
        return {self._limited(name): self._found[name] for name in self._second.results() if name in self._found}

    def _limited(self, tensor: str) -> str:
        """Where the second graph holds what the first has behind a ReLU that became a range: behind Q and DQ."""
        first = self._first.made_by[self._found[tensor]]
        if first.op_type not in FOLDED or self._second.made_by[tensor].op_type in FOLDED:
            return tensor
        after = tensor
        for operator in ("QuantizeLinear", "DequantizeLinear"):
            users = self._second.users.get(after, [])
            if len(users) != 1 or users[0].op_type != operator:
                return tensor
            after = users[0].output[0]
        return after

    def _by(self, here: Mapping[str, str], there: Mapping[str, str]) -> None:
        """Pair what is left where as many tensors of both graphs have one key, in graph order."""
        keys = dict.fromkeys(there[name] for name in self._left_second if name in there)
        for key in keys:
            left = [name for name in self._left_first if here.get(name) == key]
            right = [name for name in self._left_second if there.get(name) == key]
            if len(left) == len(right):
                for name, other in zip(left, right, strict=True):
                    self._take(other, name)

    def _take(self, second: str, first: str) -> None:
        here, there = self._first.specs.get(first), self._second.specs.get(second)
        if here is None or there is None or _alike(here, there):
            self._found[second] = first
            self._left_first.remove(first)
            self._left_second.remove(second)

    def _same_operator(self, first: str, second: str) -> bool:
        here, there = self._first.made_by[first].op_type, self._second.made_by[second].op_type
        return here == there or {here, there} <= PRODUCTS


def _alike(first: TensorSpec, second: TensorSpec) -> bool:
    """Whether two tensors can hold the same values: the sizes that both know are the same, but for the batch."""
    if len(first.shape) != len(second.shape):
        return not first.shape or not second.shape
    pairs = zip(first.shape[1:], second.shape[1:], strict=True)
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)


def _modules(side: Side) -> dict[str, str]:
    """By the name of a tensor, the PyTorch module and the operator that make it, where they are known."""
    found = {}
    for name in side.results():
        node = side.made_by[name]
        if (module := module_of(node)) is not None:
            found[name] = f"{module}\0{'linear' if node.op_type in PRODUCTS else node.op_type}"
    return found


def _weighted(first: Side, second: Side, tensors: Mapping[str, str]) -> dict[str, onnx.NodeProto]:
    here, there = first.weighted(), second.weighted()
    by_name = {label(node): node for node in here}
    by_output = {node.output[0]: node for node in here}
    found: dict[str, onnx.NodeProto] = {}
    for node in there:
        partner = by_output.get(tensors.get(node.output[0], "")) or by_name.get(label(node))
        if partner is not None and (partner.op_type == node.op_type or {partner.op_type, node.op_type} <= PRODUCTS):
            found[node.output[0]] = partner
    used = {label(node) for node in found.values()}
    places, others = first.likeness.nodes, second.likeness.nodes
    for node in there:
        if node.output[0] not in found and (key := others.get(label(node))) is not None:
            left = [item for item in here if places.get(label(item)) == key and label(item) not in used]
            right = [item for item in there if others.get(label(item)) == key and item.output[0] not in found]
            if len(left) == len(right):
                found.update({item.output[0]: other for item, other in zip(right, left, strict=True)})
                used.update(label(item) for item in left)
    return found
