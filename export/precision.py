"""FP16 and BF16 graphs: precision is a property of the graph, so a builder needs no flag.

The rules, in order:

1. Constants become initializers; a BF16 graph is lifted to opset 22, the first with BF16 convolutions,
   a graph with Q/DQ nodes to 19, the first with half-precision scales.
2. A node computes in the half type unless
   a. it is named in ``keep``;
   b. its operator squares or exponentiates activations (:data:`WIDE_RANGE`): in FP16 anything beyond 256
      squares to infinity, and BF16 keeps 8 bits of a sum of squares;
   c. it prepares pixels: a chain of Cast, Transpose and arithmetic with constants that starts at an
      integer input, so that the network sees normalised pixels that were rounded once;
   d. the half type can't hold its constants: a value beyond 65504, or so many values in FP16's subnormal
      range that the rounding error exceeds :data:`LOSS` of the constant's norm;
   e. it is a Cast or makes values from nothing, or its operator isn't defined for the half type;
   f. it follows a convolution that stays FP32: TensorRT for RTX 1.7 was seen to run a convolution between
      two casts in half precision, whatever its type, and not to where another operator comes before the cast.
3. A tensor has the type that its producer computes in. Where a consumer computes in the other type, one
   Cast is put between, shared by all such consumers.
4. A constant that half and float nodes share is stored in both types.
5. Scales of Q/DQ nodes become half numbers; one that can't, without changing by more than half a unit in
   the last place, is an error, since the stored integers were made with the exact scale.
6. With ``keep_io`` inputs and outputs stay FP32 and keep their names.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError, InputError
from export.graph import Derived, read_derived, weights_digest, write_derived
from export.layers import CONVOLUTIONS, PRODUCTS
from export.onnxlib import onnx
from export.passes.constants import constants_to_initializers
from export.passes.lift_opset import lift_opset
from export.structure import (
    has_subgraphs,
    label,
    light_copy,
    names,
    producers,
    skeleton,
    tensor_specs,
    topological_sort,
    unique,
)

HalfName = Literal["fp16", "bf16"]

WIDE_RANGE = frozenset({"LRN", "Pow", "Exp", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "LpNormalization"})
"""Operators whose intermediate values leave the half types' range or precision."""

SOURCES = frozenset({"Cast", "CastLike", "ConstantOfShape", "Range", "EyeLike", "RandomNormal", "RandomUniform"})
"""Operators whose output type is an attribute or has no float input to follow."""

PIXEL_OPS = frozenset({"Cast", "Transpose", "Mul", "Add", "Sub", "Div"})
"""Operators that a graph which normalises its own pixels begins with."""

LOSS = 2.0**-8
"""The largest share of a constant's norm that may be lost by rounding: eight times what FP16 loses in its
normal range (2**-11)."""


@dataclass(frozen=True)
class _Half:
    """One half type: its ONNX code, its limits, how numpy makes it."""

    name: str
    code: int
    type_string: str
    opset: int
    largest: float
    epsilon: float  # half a unit in the last place, relative

    def convert(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        """Round to nearest even; the result has the type's own dtype."""
        with np.errstate(over="ignore"):  # overflow is looked for by the caller
            result: NDArray[np.generic] = values.astype(onnx.helper.tensor_dtype_to_np_dtype(self.code))
        return result


HALVES = {
    "fp16": _Half("fp16", onnx.TensorProto.FLOAT16, "tensor(float16)", 13, 65504.0, 2.0**-11),
    "bf16": _Half("bf16", onnx.TensorProto.BFLOAT16, "tensor(bfloat16)", 22, 3.3895314e38, 2.0**-8),
}

FLOAT = "float32"


def to_half(
    model: onnx.ModelProto, precision: HalfName, *, keep_io: bool = True, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """Type a graph in FP16 or BF16 by the rules above.

    Args:
        model: an FP32 graph, with or without Q/DQ nodes; it isn't changed.
        precision: "fp16" or "bf16".
        keep_io: inputs and outputs stay FP32.
        keep: names of nodes that stay FP32.

    Returns:
        A new graph, valid and sorted, that notes what it was derived from.

    Raises:
        InputError: the precision, or a name in ``keep``, is unknown.
        GraphError: the graph has no FP32 tensors or holds subgraphs, or a scale can't be a half number.
    """
    if precision not in HALVES:
        raise InputError(f"precision '{precision}' is not one of {', '.join(HALVES)}", "choose one of them")
    typing = _Typing(model, HALVES[precision], frozenset(keep), keep_io=keep_io)
    result = typing.apply()
    if read_derived(model) is None:
        write_derived(result, Derived(precision, weights_digest(model)))
    return result


class _Typing:
    """The work on one graph: decide a type for every node, then rewrite constants and boundaries."""

    def __init__(self, model: onnx.ModelProto, half: _Half, keep: frozenset[str], *, keep_io: bool) -> None:
        self.half, self.keep_io = half, keep_io
        light = light_copy(model)
        constants_to_initializers(light.graph)
        quantised = any(node.op_type == "DequantizeLinear" for node in light.graph.node)
        lift_opset(light, max(half.opset, 19 if quantised else 0))
        self.constants = {tensor.name: tensor for tensor in (*light.graph.initializer, *model.graph.initializer)}
        self.specs = tensor_specs(light)
        self.opset = next(item.version for item in light.opset_import if item.domain in {"", "ai.onnx"})
        self.model = skeleton(light)
        self.graph = self.model.graph
        del self.graph.input[:], self.graph.value_info[:]
        self.graph.input.extend(model.graph.input)
        self._check(keep)
        self._rounded: dict[str, NDArray[np.generic] | None] = {}
        pixels = self._pixel_nodes()
        self.halved = [
            node.name not in keep and index not in pixels and self._fits(node)
            for index, node in enumerate(self.graph.node)
        ]
        self._widen_after_convolutions()

    def _widen_after_convolutions(self) -> None:
        """Rule 2f."""
        kept = {
            name
            for node, halved in zip(self.graph.node, self.halved, strict=True)
            if node.op_type in CONVOLUTIONS and not halved
            for name in node.output
        }
        for index, node in enumerate(self.graph.node):
            if kept.intersection(node.input) and node.op_type not in CONVOLUTIONS | PRODUCTS:
                self.halved[index] = False

    def _check(self, keep: frozenset[str]) -> None:
        for node in self.graph.node:
            if has_subgraphs(node):
                raise GraphError(
                    f"node '{label(node)}' holds a subgraph, whose types can't be changed",
                    "export the model without control flow",
                )
        if unknown := keep - {node.name for node in self.graph.node}:
            raise InputError(
                f"there is no node called {', '.join(sorted(unknown))}", "`toolkit inspect` lists the graph's nodes"
            )
        if not any(spec.dtype == FLOAT for spec in self.specs.values()):
            raise GraphError("the graph has no FP32 tensors", "give the FP32 master graph")

    def _pixel_nodes(self) -> set[int]:
        """Rule 2c: the indices of the nodes that prepare pixels."""
        integers = {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
        prepared = {value.name for value in self.graph.input if value.type.tensor_type.elem_type in integers}
        found = set()
        for index, node in enumerate(self.graph.node):
            data = [name for name in node.input if name and name not in self.constants]
            if node.op_type in PIXEL_OPS and data and all(name in prepared for name in data):
                found.add(index)
                prepared.update(node.output)
        return found

    def _fits(self, node: onnx.NodeProto) -> bool:
        """Rules 2b, 2d and 2e."""
        tensors = [name for name in (*node.input, *node.output) if name]
        if not any(self._is_float(name) for name in tensors) or node.op_type in WIDE_RANGE | SOURCES:
            return False
        allowed = _allowed(node.op_type, node.domain, self.opset)
        if allowed is None:
            return False
        for position, name in enumerate(node.output):
            if self._is_float(name) and self.half.type_string not in allowed.output(position):
                return False
        converted = [
            name
            for position, name in enumerate(node.input)
            if self._is_float(name) and self.half.type_string in allowed.input(position)
        ]
        if not converted and not any(self._is_float(name) for name in node.output):
            return False
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            self._check_scale(node)
            return True
        return all(self._rounding(name) is not None for name in converted if name in self.constants)

    def _is_float(self, name: str) -> bool:
        return name in self.specs and self.specs[name].dtype == FLOAT

    def _rounding(self, name: str) -> NDArray[np.generic] | None:
        """The constant in the half type; None where that type can't hold it (rule 2d)."""
        if name not in self._rounded:
            values = onnx.numpy_helper.to_array(self.constants[name])
            rounded = self.half.convert(values)
            self._rounded[name] = rounded if self._holds(values, rounded) else None
        return self._rounded[name]

    def _holds(self, values: NDArray[np.float32], rounded: NDArray[np.generic]) -> bool:
        if values.size == 0:
            return True
        if not np.abs(values).max() <= self.half.largest:
            return False
        if self.half.name == "bf16":  # FP32's exponents: nothing is subnormal that wasn't
            return True
        error, norm = rounded.astype(np.float32), np.linalg.norm(values.ravel())
        error -= values
        return bool(np.linalg.norm(error.ravel()) <= LOSS * norm)

    def _check_scale(self, node: onnx.NodeProto) -> None:
        """Rule 5."""
        scale = self.constants.get(node.input[1])
        if scale is None or scale.data_type != onnx.TensorProto.FLOAT:
            return
        values = onnx.numpy_helper.to_array(scale).astype(np.float64)
        rounded = self.half.convert(values.astype(np.float32)).astype(np.float64)
        if not np.all(np.isfinite(rounded) & (np.abs(rounded - values) <= self.half.epsilon * np.abs(values))):
            raise GraphError(
                f"a scale of node '{label(node)}' can't be a {self.half.name} number "
                f"(smallest {values.min():.3g}, largest {values.max():.3g})",
                "quantise with scales that are exact in the remainder's type",
            )
        self._rounded[node.input[1]] = self.half.convert(values.astype(np.float32))

    def apply(self) -> onnx.ModelProto:
        """Rules 3, 4 and 6."""
        taken = names(self.graph) | set(self.constants)
        half_tensors = {
            name
            for node, halved in zip(self.graph.node, self.halved, strict=True)
            if halved
            for name in node.output
            if self._is_float(name)
        }
        if not self.keep_io:
            half_tensors |= {value.name for value in self.graph.input if self._is_float(value.name)}
        nodes = list(self.graph.node)
        casts = self._free_outputs(half_tensors, taken)
        copies = dict[str, str]()

        def retype(name: str, *, to_half: bool) -> str:
            """The name of the tensor in the type that a consumer wants."""
            if name in self.constants:
                if to_half and name not in copies:
                    copies[name] = unique(f"{name}.{self.half.name}", taken)
                return copies[name] if to_half else name
            if to_half == (name in half_tensors):
                return name
            if (name, to_half) not in casts:
                new = casts[name, to_half] = unique(f"{name}.{self.half.name if to_half else 'fp32'}", taken)
                code = self.half.code if to_half else onnx.TensorProto.FLOAT
                self.graph.node.append(onnx.helper.make_node("Cast", [name], [new], new, to=code))
            return casts[name, to_half]

        for node, halved in zip(nodes, self.halved, strict=True):
            allowed = _allowed(node.op_type, node.domain, self.opset) if halved else None
            for position, name in enumerate(node.input):
                if self._is_float(name) or name in half_tensors:
                    wanted = allowed is not None and self.half.type_string in allowed.input(position)
                    node.input[position] = retype(name, to_half=wanted)
        self._store(copies)
        if not self.keep_io:
            for value in (*self.graph.input, *self.graph.output):
                if value.name in half_tensors:
                    value.type.tensor_type.elem_type = self.half.code
        topological_sort(self.graph)
        return self.model

    def _free_outputs(self, half_tensors: set[str], taken: set[str]) -> dict[tuple[str, bool], str]:
        """Rule 6: what makes an FP32 output in half precision gets another name, and a Cast takes the output's."""
        casts = dict[tuple[str, bool], str]()
        if not self.keep_io:
            return casts
        made_by = producers(self.graph)
        for value in self.graph.output:
            if value.name not in half_tensors or value.name not in made_by:
                continue
            inner = unique(f"{value.name}.{self.half.name}", taken)
            for node in self.graph.node:
                for names_of in (node.input, node.output):
                    for position, name in enumerate(names_of):
                        if name == value.name:
                            names_of[position] = inner
            half_tensors.discard(value.name)
            half_tensors.add(inner)
            called = value.name  # unless a node of the network, named after its module, is called like the output
            if any(node.name == called for node in self.graph.node):
                called = unique(f"{called}.fp32", taken)
            self.graph.node.append(
                onnx.helper.make_node("Cast", [inner], [value.name], called, to=onnx.TensorProto.FLOAT)
            )
            casts[inner, False] = value.name
        return casts

    def _store(self, copies: dict[str, str]) -> None:
        """Rule 4: halves take the place, and the name, of floats that nothing reads any more."""
        read = {name for node in self.graph.node for name in node.input} | {o.name for o in self.graph.output}
        back = {new: old for old, new in copies.items() if old not in read}
        for node in self.graph.node:
            for position, name in enumerate(node.input):
                if name in back:
                    node.input[position] = back[name]
        for name, tensor in self.constants.items():
            if name in read:
                self.graph.initializer.append(tensor)
        listed = {value.name: value for value in self.graph.input}
        for old, new in copies.items():
            rounded, final = self._rounding(old), back.get(new, new)
            if rounded is None:
                raise AssertionError(f"'{old}' was meant to become {self.half.name}, which can't hold it")
            self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(rounded), final))
            if final in listed:  # old graphs list initializers among the inputs
                listed[final].type.tensor_type.elem_type = self.half.code


class _Allowed:
    """The type strings that an operator allows a position of its inputs and outputs."""

    def __init__(self, schema: "onnx.defs.OpSchema") -> None:
        self._inputs = [frozenset(formal.types) for formal in schema.inputs]
        self._outputs = [frozenset(formal.types) for formal in schema.outputs]

    def input(self, position: int) -> frozenset[str]:
        """Types of an input; the last formal one stands for all that follow (variadic)."""
        return self._inputs[min(position, len(self._inputs) - 1)]

    def output(self, position: int) -> frozenset[str]:
        """Types of an output."""
        return self._outputs[min(position, len(self._outputs) - 1)]


@functools.cache
def _allowed(op: str, domain: str, opset: int) -> _Allowed | None:
    """What an operator of ONNX allows; None for one that isn't ONNX's."""
    if domain not in {"", "ai.onnx"} or not onnx.defs.has(op, ""):
        return None
    return _Allowed(onnx.defs.get_schema(op, opset, ""))
