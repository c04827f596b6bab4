"""The opset of a master graph: lifted by onnx's own converter where it is older, lowered where nothing is lost.

1. A graph older than asked for is lifted to that. What the converter gets wrong or makes hard to read is mended:
   a ``Resize`` or ``Upsample`` from before opset 11 keeps its own coordinates (asymmetric, rounded down), which
   opset 11 no longer assumes; a ``Softmax`` from before opset 13 over the last dimension stays one node.
2. A graph of a newer opset up to the newest that can be written stays as it is.
3. One that is newer still is lowered to the newest that can be written, by the same converter.
"""

from engines.errors import GraphError
from export.foreign.edit import Constants, infer, is_plain, remove_nodes
from export.onnxlib import onnx
from export.passes.constants import constants_to_initializers
from export.passes.lift_opset import lift_opset
from export.structure import attribute, consumers, label, light_copy, remove_unused, set_attribute

OLDEST, NEWEST = 7, 23
"""The opsets between which graphs are taken or lifted; newer ones are lowered where that is possible."""

_SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")


def opset_of(model: onnx.ModelProto) -> int:
    """The graph's opset; 0 where it imports none."""
    return next((int(item.version) for item in model.opset_import if not item.domain), 0)


def to_opset(model: onnx.ModelProto, wanted: int, name: str, changes: list[str]) -> None:
    """Apply the rules above.

    Raises:
        GraphError: the graph is too old, or an operator has no conversion.
    """
    found = opset_of(model)
    if found < OLDEST:
        raise GraphError(
            f"{name} uses opset {found}; opsets from {OLDEST} on can be imported",
            "export the model again with opset 20",
        )
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", found))
    if found > NEWEST:
        _lower(model, name)
    elif found < wanted:
        resized = {node.output[0] for node in model.graph.node if is_plain(node, "Resize", "Upsample")}
        _lift(model, wanted, name)
        constants_to_initializers(model.graph)
        if found < 11:
            _keep_coordinates(model.graph, resized)
        if found < 13:
            _plain_softmax(model)
    if opset_of(model) != found:
        changes.append(f"opset: {found} became {opset_of(model)}")
    model.ir_version = max(10, onnx.helper.find_min_ir_version_for(model.opset_import))


def _lift(model: onnx.ModelProto, wanted: int, name: str) -> None:
    try:
        lift_opset(model, wanted)
    except GraphError as error:
        raise GraphError(f"{name}: {error.cause}", f"export the model again with opset {wanted}") from error


def _lower(model: onnx.ModelProto, name: str) -> None:
    found = opset_of(model)
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, NEWEST, ""):
            raise GraphError(
                f"{name} uses opset {found}, and node '{label(node)}' its operator {node.op_type}, which "
                f"opset {NEWEST} doesn't have",
                f"export the model again with opset {NEWEST} or lower",
            )
    try:
        lowered = onnx.version_converter.convert_version(light_copy(model), NEWEST)
    except Exception as error:  # C++ says what it likes
        raise GraphError(
            f"{name} uses opset {found}, which can't be lowered to {NEWEST}: {error}",
            f"export the model again with opset {NEWEST} or lower",
        ) from error
    known = {tensor.name for tensor in model.graph.initializer}
    del model.graph.node[:]
    model.graph.node.extend(lowered.graph.node)
    model.graph.initializer.extend(tensor for tensor in lowered.graph.initializer if tensor.name not in known)
    model.opset_import[0].version = NEWEST


def _keep_coordinates(graph: onnx.GraphProto, resized: set[str]) -> None:
    for node in graph.node:
        if node.op_type == "Resize" and node.output[0] in resized:
            set_attribute(node, "coordinate_transformation_mode", "asymmetric")
            set_attribute(node, "nearest_mode", "floor")


def _plain_softmax(model: onnx.ModelProto) -> None:
    """``Shape, Flatten(axis), Softmax, Reshape`` over the last dimension is ``Softmax`` over the last dimension."""
    graph = model.graph
    shapes, users = infer(model), consumers(graph)
    made = {name: node for node in graph.node for name in node.output}
    for node in [item for item in graph.node if item.op_type in _SOFTMAX]:
        flat = made.get(node.input[0])
        after = users.get(node.output[0], [])
        if flat is None or flat.op_type != "Flatten" or len(after) != 1 or after[0].op_type != "Reshape":
            continue
        back, shape = after[0], shapes.get(flat.input[0])
        measured = made.get(back.input[1])
        if measured is None or measured.op_type != "Shape" or measured.input[0] != flat.input[0] or shape is None:
            continue
        axis = int(attribute(flat, "axis", 1)) % len(shape)
        if all(size == 1 for size in shape[axis + 1 :]):  # over one dimension: those behind it have one element
            node.input[0], node.output[0] = flat.input[0], back.output[0]
            set_attribute(node, "axis", axis)
            remove_nodes(graph, [back])
            if len(users[flat.output[0]]) == 1:
                remove_nodes(graph, [flat])
    remove_unused(graph)


def has_softmax(graph: onnx.GraphProto, output: str) -> bool:
    """Whether an output is the result of a Softmax, as far as nodes go that only shape it."""
    return maker(graph, output) == "Softmax"


def maker(graph: onnx.GraphProto, output: str) -> str | None:
    """The operator that makes an output, as far as nodes go that only shape it; None for a graph's input."""
    made = {name: node for node in graph.node for name in node.output}
    constants = Constants(graph)
    node = made.get(output)
    while node is not None and node.op_type in {"Identity", "Reshape", "Flatten", "Squeeze"}:
        node = made.get(node.input[0]) if node.input[0] not in constants else None
    return None if node is None else node.op_type
