"""What identifies a tensor of a graph whatever it is called: how it is computed from the graph's inputs.

The signature of an activation is a digest of the operator that makes it, the operator's attributes, and the
signatures of what it reads; a constant's is of its type, shape and values, and a graph input's of its place, type and
shape. The batch dimension doesn't count. So two tensors with one signature hold the same values for the same input,
in one graph or in two: where a graph repeats a branch with the same weights, one range is right for both.

Rewrites that change no value don't change signatures: attributes that only say the default, Identity, Dropout as it
is at inference, a Flatten, Squeeze or Unsqueeze in place of an equal Reshape, and the order of a sum. A
BatchNormalization that is folded into a convolution does: what follows it has other signatures.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from engines.errors import GraphError
from engines.tensors import TensorSpec
from export.digests import tensor_digests
from export.onnxlib import onnx
from export.structure import attribute, has_subgraphs, initializers, tensor_specs, type_name

SKIPPED = frozenset({"Identity", "Dropout"})
"""Operators whose first output is their first input."""

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that only say how the same values lie in dimensions."""

SUMS = frozenset({"Add", "Mul", "Max", "Min", "Sum"})
"""Operators that don't care about the order of what they read."""

_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})
_RANDOM |= frozenset({"RandomNormalLike", "RandomUniformLike"})

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True)
class Identity:
    """What identifies a graph's tensors and weights without their names.

    Attributes:
        tensors: the signature of every activation by its name, 32 hex digits. What is random, or computed inside
            control flow, or from that, has none.
        content: ``sha256:<hex>`` over the floating-point constants: type, shape and values, in no order.
    """

    tensors: Mapping[str, str]
    content: str


def identify(model: onnx.ModelProto, digests: Mapping[str, str] | None = None) -> Identity:
    """Signatures and content of a graph; every constant is hashed once.

    Args:
        model: the graph.
        digests: what :func:`export.digests.constant_digests` says of it, where that is known.
    """
    signer = Signer(model, digests)
    for node in model.graph.node:
        signer.add(node)
    constants = sorted(str(signer.of(name)) for name, tensor in signer.constants.items() if is_float(tensor))
    return Identity(signer.known, f"sha256:{hashlib.sha256(' '.join(constants).encode()).hexdigest()}")


def signatures(model: onnx.ModelProto) -> dict[str, str]:
    """The signature of every activation by its name (:class:`Identity`)."""
    return dict(identify(model).tensors)


def content_digest(model: onnx.ModelProto) -> str:
    """The digest of the weights, whatever they are called (:class:`Identity`)."""
    return identify(model).content


class Signer:
    """Gives signatures node by node.

    Args:
        model: the graph.
        digests: of its initializers, where they are known.

    Attributes:
        known: the signatures so far, by the name of the activation.
        specs: type and shape of every tensor, as far as they can be inferred.
    """

    def __init__(self, model: onnx.ModelProto, digests: Mapping[str, str] | None = None) -> None:
        self.constants = initializers(model.graph)
        try:
            self.specs: Mapping[str, TensorSpec] = tensor_specs(model)
        except GraphError:  # a foreign operator that onnx doesn't know: names of operators must do
            self.specs = {}
        self.known: dict[str, str] = {}
        self._hashed = {name: _short(found) for name, found in (digests or {}).items()}
        self._unshaped: dict[str, str] = {}
        inputs = [value for value in model.graph.input if value.name not in self.constants]
        for place, value in enumerate(inputs):
            spec = self.specs.get(value.name)
            self.known[value.name] = digest("input", str(place), self.describe(spec))

    def describe(self, spec: TensorSpec | None) -> str:
        """What counts of an input's type and shape."""
        return f"{spec.dtype} {_sizes(spec)}" if spec else "?"

    def of(self, tensor: str) -> str | None:
        """The signature of a tensor or constant; None where it has none."""
        if not tensor:
            return "-"
        if tensor in self.known or tensor not in self.constants:
            return self.known.get(tensor) or self._hashed.get(tensor)
        if tensor not in self._hashed:
            self._hashed[tensor] = self.constant(self.constants[tensor])
        return self._hashed[tensor]

    def constant(self, tensor: onnx.TensorProto) -> str:
        """The signature of a constant."""
        return constant_signature(tensor)

    def add(self, node: onnx.NodeProto) -> None:
        """Sign what ``node`` makes; its inputs come from nodes that were added before."""
        if (value := constant_value(node)) is not None:
            self.constants[node.output[0]] = value
            return
        if node.op_type in _RANDOM or has_subgraphs(node) or _trains(node):
            return
        if node.op_type in SKIPPED:
            self._set(node.output[0], self.of(node.input[0]))
            return
        if node.op_type in RESHAPES and self._reshape(node):
            return
        read = [self.of(name) for name in node.input]
        found = [item for item in read if item is not None]
        if len(found) < len(read):
            return
        found = sorted(found) if node.op_type in SUMS else found
        made = digest(node.domain, node.op_type, *attributes(node), *found)
        for place, name in enumerate(node.output):
            if name:
                self.known[name] = made if place == 0 else digest(made, str(place))

    def _set(self, tensor: str, signature: str | None) -> None:
        if signature is not None:
            self.known[tensor] = signature

    def _reshape(self, node: onnx.NodeProto) -> bool:
        """Sign the result of a reshape by what it holds and its shape; False where the shape isn't known."""
        source, made = self.of(node.input[0]), self.specs.get(node.output[0])
        if (
            source is None
            or made is None
            or not made.shape
            or not all(isinstance(size, int) for size in made.shape[1:])
        ):
            return False
        before = self.specs.get(node.input[0])
        if before is not None and len(before.shape) == len(made.shape) and _sizes(before) == _sizes(made):
            self._set(node.output[0], source)
            return True
        base = self._unshaped.get(source, source)
        result = digest("reshape", base, _sizes(made))
        self._unshaped[result] = base
        self._set(node.output[0], result)
        return True


def digest(*parts: str) -> str:
    """32 hex digits of a list of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def constant_signature(tensor: onnx.TensorProto) -> str:
    """Of a constant's type, shape and values."""
    return _short(tensor_digests([tensor])[0])


def _short(found: str) -> str:
    return found[:32]


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node gives; None for any other node, and for text."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return None
    for item in node.attribute:
        value = onnx.helper.get_attribute_value(item)
        if item.name == "value":
            tensor: onnx.TensorProto = item.t
            return tensor
        if item.name in {"value_float", "value_floats"}:
            return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
        if item.name in {"value_int", "value_ints"}:
            return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def attributes(node: onnx.NodeProto) -> Iterable[str]:
    """What a node's attributes say beyond the defaults, a text each, by name."""
    defaults = _defaults(node.op_type)
    for item in sorted(node.attribute, key=lambda item: item.name):
        if item.type == onnx.AttributeProto.TENSOR:
            yield f"{item.name}={constant_signature(item.t)}"
            continue
        value = onnx.helper.get_attribute_value(item)
        if _says_nothing(item.name, value) or (item.name in defaults and value == defaults[item.name]):
            continue
        if item.name == "kernel_shape" and node.op_type in {"Conv", "ConvTranspose"}:
            continue  # the weight's shape says it
        yield f"{item.name}={value!r}"


def _says_nothing(name: str, value: object) -> bool:
    if not isinstance(value, list):
        return False
    return (name in {"pads", "output_padding"} and not any(value)) or (
        name in {"strides", "dilations"} and all(size == 1 for size in value)
    )


def _defaults(operator: str) -> dict[str, object]:
    if not onnx.defs.has(operator):
        return {}
    found = onnx.defs.get_schema(operator).attributes.items()
    return {
        name: onnx.helper.get_attribute_value(item.default_value) for name, item in found if item.default_value.name
    }


def _trains(node: onnx.NodeProto) -> bool:
    """Whether a Dropout may drop something: it is told to train, or whether to isn't known here."""
    return node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])


def _sizes(spec: TensorSpec) -> str:
    """A shape without the batch and without the names of dimensions."""
    return ",".join(["*", *(str(size) if isinstance(size, int) else "*" for size in spec.shape[1:])])


def is_float(tensor: onnx.TensorProto) -> bool:
    """Whether a constant holds floating-point numbers."""
    return type_name(tensor.data_type) in _FLOATS


def perm_of(node: onnx.NodeProto, dimensions: int) -> list[int]:
    """The order of dimensions that a Transpose gives."""
    return list(attribute(node, "perm", None) or reversed(range(dimensions)))
