"""The structure of an ONNX graph: who makes and who uses a tensor, in what order, of what type and shape."""

import math
from collections.abc import Iterator
from typing import Any

from engines.errors import GraphError
from engines.tensors import TensorSpec
from export.onnxlib import onnx

LIGHT = 4096
"""Initializers larger than this many bytes are left out of :func:`light_copy`."""


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor; graph inputs and initializers have none."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that use each tensor, in graph order; a node that uses it twice is listed once."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                users.setdefault(name, []).append(node)
    return users


def initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The graph's constants by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute (bytes as str), or ``default`` where it isn't set."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set a node's attribute, replacing an earlier value."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def has_subgraphs(node: onnx.NodeProto) -> bool:
    """Whether the node holds graphs of its own (If, Loop, Scan)."""
    return any(item.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS} for item in node.attribute)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant: initializers and tensor attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            if item.HasField("t"):
                yield item.t
            yield from item.tensors
            if item.HasField("g"):
                yield from all_tensors(item.g)
            for inner in item.graphs:
                yield from all_tensors(inner)


def names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name in use."""
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
    return used


def unique(wanted: str, taken: set[str]) -> str:
    """``wanted``, or with a number behind it where that is taken; the result is added to ``taken``."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def topological_sort(graph: onnx.GraphProto) -> bool:
    """Put the nodes into an order in which each comes after what it uses, changing as little as possible.

    Returns:
        Whether the order changed.

    Raises:
        GraphError: the nodes form a cycle or use a tensor that nothing makes.
    """
    known = {""} | {value.name for value in (*graph.input, *graph.initializer)}
    known.update(tensor.values.name for tensor in graph.sparse_initializer)
    made = {name for node in graph.node for name in node.output}
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        blocked = []
        for node in waiting:
            needs = [name for name in _reads(node) if name not in known and (name in made or name in node.input)]
            if needs:
                blocked.append(node)
            else:
                ordered.append(node)
                known.update(node.output)
        if len(blocked) == len(waiting):
            raise GraphError(
                f"node '{label(blocked[0])}' waits for tensors that nothing before it makes", "export the model again"
            )
        waiting = blocked
    changed = [id(node) for node in ordered] != [id(node) for node in graph.node]
    if changed:
        copies = [onnx.NodeProto() for _ in ordered]
        for copy, node in zip(copies, ordered, strict=True):
            copy.CopyFrom(node)
        del graph.node[:]
        graph.node.extend(copies)
    return changed


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for item in node.attribute:
        for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
            for child in inner.node:
                yield from _reads(child)


def remove_unused(graph: onnx.GraphProto) -> bool:
    """Drop nodes and initializers that no output depends on.

    Returns:
        Whether something was dropped.
    """
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(_reads(node))
            kept.append(node)
    before = len(graph.node) + len(graph.initializer)
    if len(kept) != len(graph.node):
        alive = {id(node) for node in kept}
        for index in reversed(range(len(graph.node))):
            if id(graph.node[index]) not in alive:
                del graph.node[index]
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    return len(graph.node) + len(graph.initializer) != before


def label(node: onnx.NodeProto) -> str:
    """How an error names a node: its name, or its operator and first output."""
    return node.name or f"{node.op_type} → {node.output[0] if node.output else '?'}"


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The size of a constant's values in bytes, without touching them."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    count: int = math.prod(tensor.dims)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def type_name(element: int) -> str:
    """An element type by numpy's name ("float32", "bfloat16")."""
    if element == onnx.TensorProto.STRING:
        return "str"
    if element == onnx.TensorProto.UNDEFINED:
        return "undefined"
    return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)


def value_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """A graph value's name, type and shape; a dimension of unknown size and no name is called "?"."""
    tensor = value.type.tensor_type
    shape = tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, type_name(tensor.elem_type), shape)


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the initializers: what a new graph with other weights starts from."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(copy, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(copy.graph, field.name, value)
    return copy


def light_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are graph inputs: as good for inference of types, and small."""
    copy = skeleton(model)
    given = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= LIGHT and tensor.data_location != onnx.TensorProto.EXTERNAL:
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in given:
            copy.graph.input.add().CopyFrom(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return copy


def _copy_field(message: Any, name: str, value: Any) -> None:
    """Copy one protobuf field, whatever its kind."""
    target = getattr(message, name)
    if hasattr(target, "MergeFrom"):
        target.MergeFrom(value)
    else:
        setattr(message, name, value)


def tensor_specs(model: onnx.ModelProto) -> dict[str, TensorSpec]:
    """The type and shape of every tensor that can be inferred, initializers included.

    Raises:
        GraphError: types or shapes in the graph contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(light_copy(model), strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise GraphError(
            f"the graph's types and shapes contradict each other: {error}", "export the model again"
        ) from error
    graph = inferred.graph
    specs = {value.name: value_spec(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in model.graph.initializer:
        specs[tensor.name] = TensorSpec(tensor.name, type_name(tensor.data_type), tuple(map(int, tensor.dims)))
    return specs
