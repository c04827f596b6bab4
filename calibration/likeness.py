"""What a tensor of a foreign graph has in common with the one it was quantised from: its place in the structure.

A quantised graph holds other weights than its master (rounded, stored as integers, sometimes with a corrected bias),
has Q/DQ nodes between its operators, and some tools fold what follows a convolution into it. So the likeness of a
tensor is its signature (:mod:`calibration.signature`) with these differences taken away:

1. Floating-point constants count by their shape; quantised ones as the floating-point ones that they stand for.
2. QuantizeLinear, DequantizeLinear and casts between float types aren't there.
3. Gemm, and MatMul with a constant, are one linear operator. A bias doesn't count, whether it is an input or an Add.
4. A BatchNormalization, Relu or Clip behind a convolution, linear operator or sum belongs to it: tools fold the first
   into the weights, and the others into an unsigned range. What was before them has a likeness of its own.

Unlike signatures, two tensors with one likeness may hold different values: two branches of one shape.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from calibration.ranges import PRODUCTS
from calibration.signature import Signer, attributes, constant_signature, digest, is_float
from engines.tensors import TensorSpec
from export.onnxlib import onnx
from export.structure import attribute, consumers, label, producers

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
FOLDED = frozenset({"BatchNormalization", "Relu", "Clip"})
PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Likeness:
    """The places of tensors and nodes in a graph's structure.

    Attributes:
        tensors: by the name of an activation that no Q/DQ node or cast makes.
        nodes: of every convolution and linear operator, by its name: that of what it makes, folded or not.
    """

    tensors: dict[str, str]
    nodes: dict[str, str]

    def places(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Of the named tensors, those in each place, in the given order."""
        found: dict[str, list[str]] = {}
        for name in names:
            if name in self.tensors:
                found.setdefault(self.tensors[name], []).append(name)
        return found


def likeness(model: onnx.ModelProto) -> Likeness:
    """The place of every activation of a graph."""
    signer = _Signer(model)
    for node in model.graph.node:
        signer.add(node)
    tensors = {name: found for name, found in signer.known.items() if name not in signer.hidden}
    return Likeness(tensors, signer.nodes)


def is_transparent(node: onnx.NodeProto) -> bool:
    """Whether a node changes only how its input is stored."""
    return node.op_type in PAIRS or (
        node.op_type == "Cast"
        and attribute(node, "to") in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    )


class _Signer(Signer):
    """Signs tensors by structure only."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.hidden: set[str] = set()
        self.nodes: dict[str, str] = {}
        self._producers = producers(model.graph)
        self._consumers = consumers(model.graph)
        self._outputs = Counter(value.name for value in model.graph.output)
        self._computed = {value.name for value in model.graph.input if value.name not in self.constants}
        self._steps: set[str] = set()

    def describe(self, spec: TensorSpec | None) -> str:
        return " ".join(str(size) for size in spec.shape[1:] if isinstance(size, int)) if spec else "?"

    def constant(self, tensor: onnx.TensorProto) -> str:
        return digest("float", str(list(tensor.dims))) if is_float(tensor) else constant_signature(tensor)

    def add(self, node: onnx.NodeProto) -> None:
        computed = any(name in self._computed for name in node.input)
        if computed:
            self._computed.update(node.output)
        source = self._source(self._data(node)) if computed else ""
        if is_transparent(node):
            self._see_through(node, computed=computed)
        elif computed and node.op_type in CONVOLUTIONS:
            self._step(node, node.op_type, *attributes(node), self.of(node.input[0]), self.of(node.input[1]))
        elif computed and node.op_type in PRODUCTS and node.input[1] not in self._computed:
            spec = self.specs.get(node.output[0])
            self._step(node, "linear", str(spec.shape[-1]) if spec and spec.shape else "?", self.of(node.input[0]))
        elif source in self._steps and self._users(source) == 1 and self._folds(node):
            self._fold(node, source)
        else:
            super().add(node)
            if computed and node.op_type == "Add":
                self._steps.update(node.output)

    def _see_through(self, node: onnx.NodeProto, *, computed: bool) -> None:
        given = self.constants.get(node.input[0])
        found = digest("float", str(list(given.dims))) if given is not None else self.of(node.input[0])
        self._set(node.output[0], found)
        if computed:
            self.hidden.add(node.output[0])

    def _step(self, node: onnx.NodeProto, *parts: str | None) -> None:
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            self.known[node.output[0]] = self.nodes[label(node)] = digest(*known)
            self._steps.add(node.output[0])

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Whether a node belongs to the step before it."""
        if node.op_type in FOLDED:
            return True
        made_by = self._producers.get(self._source(self._data(node)))
        plain = made_by is not None and made_by.op_type in CONVOLUTIONS | PRODUCTS
        return node.op_type == "Add" and plain and sum(name in self._computed for name in node.input) == 1

    def _data(self, node: onnx.NodeProto) -> str:
        """The first input that isn't constant."""
        return next(str(name) for name in node.input if name in self._computed)

    def _fold(self, node: onnx.NodeProto, source: str) -> None:
        self.known[node.output[0]] = self.known[source]
        self.known[source] = digest("before", node.op_type, self.known[source])
        self._steps.add(node.output[0])

    def _source(self, tensor: str) -> str:
        """The tensor that Q/DQ nodes and casts before this one only store otherwise."""
        node = self._producers.get(tensor)
        while node is not None and is_transparent(node):
            tensor = node.input[0]
            node = self._producers.get(tensor)
        return tensor

    def _users(self, tensor: str) -> int:
        """How many operators read a tensor, through Q/DQ nodes and casts."""
        count, waiting = self._outputs[tensor], [tensor]
        while waiting:
            for node in self._consumers.get(waiting.pop(), []):
                if is_transparent(node):
                    waiting.append(node.output[0])
                    count += self._outputs[node.output[0]]
                else:
                    count += 1
        return count
