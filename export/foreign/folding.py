"""What a graph computes from constants alone is computed once, by ONNX Runtime, and becomes constants.

1. ``Constant`` nodes become initializers.
2. A node whose inputs are all constants goes; its results become initializers. A result that is larger than what it
   was made from by more than :data:`GROWTH` stays computed.
3. ``Shape`` of dimensions whose sizes are known is a constant; so is what ``Gather`` and ``Slice`` take from them.
   The batch is never one of those.
4. An ``If`` whose condition is constant is replaced by the branch that is taken.
"""

import numpy as np

from export.foreign.edit import PLAIN, Constants, infer, is_plain, outputs_of, remove_nodes, rename_uses
from export.foreign.running import Runner
from export.onnxlib import onnx
from export.passes.constants import constants_to_initializers
from export.structure import attribute, has_subgraphs, names, remove_unused, tensor_bytes, topological_sort, unique

GROWTH = 1 << 20
"""Bytes that a constant may be larger than what it was computed from."""

_NEVER = frozenset({"RandomNormal", "RandomUniform", "Constant", "QuantizeLinear", "DequantizeLinear"})


def fold_constants(model: onnx.ModelProto) -> int:
    """Apply the rules above until nothing changes.

    Returns:
        How many nodes went.
    """
    before = len(model.graph.node)
    while True:
        changed = constants_to_initializers(model.graph)
        changed = _share(model.graph) or changed
        changed = _fold_shapes(model) or changed
        changed = _fold_nodes(model) or changed
        changed = _fold_ifs(model.graph) or changed
        if not changed:
            break
    remove_unused(model.graph)
    topological_sort(model.graph)
    return before - len(model.graph.node)


def _share(graph: onnx.GraphProto) -> bool:
    """Let those who read an ``Identity`` of a constant read the constant: a weight that layers share isn't copied."""
    constants, outputs = {tensor.name for tensor in graph.initializer}, outputs_of(graph)
    gone = [
        node
        for node in graph.node
        if is_plain(node, "Identity") and node.input[0] in constants and node.output[0] not in outputs
    ]
    for node in gone:
        rename_uses(graph, node.output[0], node.input[0])
    remove_nodes(graph, gone)
    return bool(gone)


def _fold_nodes(model: onnx.ModelProto) -> bool:
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    outputs = outputs_of(graph)
    folded: list[onnx.NodeProto] = []
    results: set[str] = set()
    for node in graph.node:
        read = [name for name in node.input if name]
        if not is_plain(node) or node.op_type in _NEVER or has_subgraphs(node) or outputs & set(node.output):
            continue
        if read and all(name in known or name in results for name in read):
            folded.append(node)
            results.update(name for name in node.output if name)
    if not folded:
        return False
    small = onnx.ModelProto(ir_version=max(model.ir_version, 8))
    small.opset_import.extend(item for item in model.opset_import if item.domain in PLAIN)
    small.graph.name = "constants"
    small.graph.node.extend(folded)
    needed = {name for node in folded for name in node.input}
    small.graph.initializer.extend(known[name] for name in sorted(needed & set(known)))
    inside = {id(node) for node in folded}
    wanted = {name for node in graph.node if id(node) not in inside for name in node.input} & results
    small.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    if not wanted:
        remove_nodes(graph, folded)
        return True
    with Runner(small, optimised=False) as runner:
        values = runner.run({})
    limit = sum(tensor_bytes(known[name]) for name in needed & set(known)) + GROWTH
    if sum(value.nbytes for value in values.values()) > limit:
        return False
    for name, value in values.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    remove_nodes(graph, folded)
    return True


def _fold_shapes(model: onnx.ModelProto) -> bool:
    graph = model.graph
    shapes = [node for node in graph.node if is_plain(node, "Shape")]
    if not shapes:
        return False
    found, constants, changed = infer(model), Constants(graph), False
    dims = {}
    gone = []
    outputs = outputs_of(graph)
    for node in shapes:
        shape = found.get(node.input[0])
        if shape is None or node.output[0] in outputs:
            continue
        part = shape[attribute(node, "start", 0) : attribute(node, "end", len(shape))]
        if all(size is not None for size in part):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(part, np.int64), node.output[0]))
            gone.append(node)
        else:
            dims[node.output[0]] = part
    for node in graph.node:
        if not is_plain(node, "Gather", "Slice") or node.input[0] not in dims or node.output[0] in outputs:
            continue
        part = dims[node.input[0]]
        if node.op_type == "Gather":
            index = constants.input(node, 1)
            if index is None or index.ndim > 1 or any(_at(part, int(one)) is None for one in index.reshape(-1)):
                continue
            value = np.array([part[int(one)] for one in index.reshape(-1)], np.int64).reshape(index.shape)
        else:
            sizes = _sliced(node, constants, part)
            if sizes is None or any(size is None for size in sizes):
                continue
            value = np.array(sizes, np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
        gone.append(node)
    if gone:
        remove_nodes(graph, gone)
        changed = True
    return changed


def _at(part: tuple[int | None, ...], index: int) -> int | None:
    return part[index] if -len(part) <= index < len(part) else None


def _sliced(
    node: onnx.NodeProto, constants: Constants, part: tuple[int | None, ...]
) -> tuple[int | None, ...] | None:
    """What a Slice takes of a shape; attributes hold its places in old opsets."""
    places = []
    for index, old in ((1, "starts"), (2, "ends"), (4, "steps")):
        value = attribute(node, old)
        given = np.asarray(value) if value is not None else constants.input(node, index)
        if given is None and (index < 4 or (len(node.input) > 4 and node.input[4])):
            return None
        places.append(None if given is None else int(given.reshape(-1)[0]))
    return part[slice(places[0], places[1], places[2])]


def _fold_ifs(graph: onnx.GraphProto) -> bool:
    constants, changed = Constants(graph), False
    for node in list(graph.node):
        condition = constants.input(node, 0) if is_plain(node, "If") else None
        if condition is None:
            continue
        branch = attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
        _inline(graph, node, branch)
        changed = True
    return changed


def _inline(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
    """Put a branch in place of its If."""
    taken = names(graph)
    made = [
        *(tensor.name for tensor in branch.initializer),
        *(name for inner in branch.node for name in inner.output),
    ]
    renamed = {name: unique(name, taken) for name in made if name}
    for tensor in branch.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    new = []
    for inner in branch.node:
        copy_of = onnx.NodeProto()
        copy_of.CopyFrom(inner)
        for tensors in (copy_of.input, copy_of.output):
            for position, name in enumerate(tensors):
                tensors[position] = renamed.get(name, name)
        new.append(copy_of)
    for inner_value, result in zip(branch.output, node.output, strict=True):
        source = renamed.get(inner_value.name, inner_value.name)
        new.append(onnx.helper.make_node("Identity", [source], [result], f"{node.name or result}.taken"))
    index = next(position for position, other in enumerate(graph.node) if other is node or other == node)
    del graph.node[index]
    for offset, item in enumerate(new):
        graph.node.insert(index + offset, item)
