"""Channels last, as TensorFlow's exporters write it, goes where two transpositions cancel.

1. A ``Transpose`` behind a ``Transpose`` becomes one; one that changes nothing goes.
2. A ``Transpose`` moves down through what acts on each value alone (activations, arithmetic with a constant or with
   a tensor transposed likewise, ``Concat``), so that it meets the one that undoes it.
3. A mean or other reduction behind a ``Transpose`` takes the axes from before it.

A node is moved only where all users of the ``Transpose`` are such nodes or transpositions, so that none is doubled.
"""

from collections.abc import Sequence

import numpy as np

from export.foreign.edit import Constants, is_plain, outputs_of, remove_nodes, rename_uses
from export.onnxlib import onnx
from export.structure import attribute, consumers, label, producers, remove_unused, set_attribute, topological_sort

_ONE = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Gelu", "Exp", "Log",
     "Sqrt", "Abs", "Neg", "Erf", "Softplus", "Softsign", "Cast", "Identity", "Mish", "Reciprocal", "Swish"}
)  # fmt: skip
_TWO = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"})
_REDUCE = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"})


def cancel_transposes(model: onnx.ModelProto) -> int:
    """Apply the rules above until nothing changes.

    Returns:
        How many transpositions went.
    """
    graph = model.graph
    before = _count(graph)
    for _ in range(4 * len(graph.node) + 4):
        if not (_merge(graph) or _move(graph)):
            break
        remove_unused(graph)
    topological_sort(graph)
    return before - _count(graph)


def _count(graph: onnx.GraphProto) -> int:
    return sum(is_plain(node, "Transpose") for node in graph.node)


def _perm(node: onnx.NodeProto) -> list[int] | None:
    found = attribute(node, "perm")
    return None if found is None else [int(axis) for axis in found]


def _merge(graph: onnx.GraphProto) -> bool:
    """Rule 1."""
    made, outputs = producers(graph), outputs_of(graph)
    for node in graph.node:
        perm = _perm(node) if is_plain(node, "Transpose") else None
        if perm is None:
            continue
        above = made.get(node.input[0])
        first = _perm(above) if above is not None and is_plain(above, "Transpose") else None
        if above is not None and first is not None:
            node.input[0] = above.input[0]
            set_attribute(node, "perm", [first[axis] for axis in perm])
            return True
        if perm == sorted(perm):
            if node.output[0] not in outputs:
                rename_uses(graph, node.output[0], node.input[0])
                remove_nodes(graph, [node])
                return True
            source = made.get(node.input[0])
            if source is not None and node.input[0] not in outputs:
                old, new = node.input[0], node.output[0]
                remove_nodes(graph, [node])
                rename_uses(graph, old, new)
                source.output[list(source.output).index(old)] = new
                return True
    return False


def _move(graph: onnx.GraphProto) -> bool:
    """Rules 2 and 3: move one Transpose below all of its users."""
    constants = Constants(graph)
    made, users, outputs = producers(graph), consumers(graph), outputs_of(graph)
    for node in graph.node:
        perm = _perm(node) if is_plain(node, "Transpose") else None
        if perm is None or node.output[0] in outputs or perm == sorted(perm):
            continue
        after = users.get(node.output[0], [])
        movable = [user for user in after if not is_plain(user, "Transpose")]
        if not movable or not all(_can_move(user, perm, constants, made) for user in movable):
            continue
        if not any(_leads_on(user, users, perm, set()) for user in movable):
            continue
        _move_below(graph, movable[0], perm, constants, made)
        return True
    return False


def _can_move(
    node: onnx.NodeProto,
    perm: Sequence[int],
    constants: Constants,
    made: dict[str, onnx.NodeProto],
) -> bool:
    if not is_plain(node) or len(node.output) != 1:
        return False
    if node.op_type in _ONE:
        return True
    if node.op_type in _REDUCE:
        return constants.input(node, 1) is not None and len(node.input) == 2 and _order_kept(node, perm, constants)
    if node.op_type in _TWO or node.op_type == "Concat":
        return all(
            _transposed(name, perm, made)
            or (
                node.op_type != "Concat"
                and (shape := constants.shape(name)) is not None
                and len(shape) <= len(perm)
                and not (node.op_type == "PRelu" and name == node.input[0])
            )
            for name in node.input
        )
    return False


def _order_kept(node: onnx.NodeProto, perm: Sequence[int], constants: Constants) -> bool:
    """Whether a reduction leaves its dimensions in the order from before the Transpose, or keeps them all."""
    if attribute(node, "keepdims", 1):
        return True
    axes = constants.input(node, 1)
    gone = set() if axes is None else {int(axis) % len(perm) for axis in axes}
    left = [perm[axis] for axis in range(len(perm)) if axis not in gone]
    return left == sorted(left)


def _transposed(name: str, perm: Sequence[int], made: dict[str, onnx.NodeProto]) -> bool:
    node = made.get(name)
    return node is not None and is_plain(node, "Transpose") and _perm(node) == list(perm)


def _leads_on(
    node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]], perm: Sequence[int], seen: set[int]
) -> bool:
    """Whether a Transpose that undoes this one, or a reduction that ends it, follows."""
    if id(node) in seen:
        return False
    seen.add(id(node))
    if node.op_type in _REDUCE:
        return not attribute(node, "keepdims", 1)
    for user in users.get(node.output[0], []):
        if is_plain(user, "Transpose"):
            second = _perm(user)
            if second is not None and [perm[axis] for axis in second] == sorted(perm):
                return True
        elif user.op_type in _ONE | _TWO | _REDUCE | {"Concat"} and _leads_on(user, users, perm, seen):
            return True
    return False


def _move_below(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    perm: Sequence[int],
    constants: Constants,
    made: dict[str, onnx.NodeProto],
) -> None:
    inverse = [int(axis) for axis in np.argsort(perm)]
    ends = node.op_type in _REDUCE and not attribute(node, "keepdims", 1)
    if node.op_type in _REDUCE:
        axes = constants.input(node, 1)
        if axes is not None:
            moved = sorted(int(perm[int(axis) % len(perm)]) for axis in axes)
            node.input[1] = constants.add(np.array(moved, np.int64), f"{label(node)}.axes")
    if node.op_type == "Concat":
        set_attribute(node, "axis", int(perm[int(attribute(node, "axis")) % len(perm)]))
    pure = node.op_type in _ONE | _REDUCE
    for place, name in enumerate(node.input):
        if _transposed(name, perm, made):
            node.input[place] = made[name].input[0]
        elif not pure:
            values = constants.get(name)
            if values is not None and values.ndim:
                wide = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
                node.input[place] = constants.add(wide.transpose(inverse), f"{name}.moved")
    if ends:
        return
    result = node.output[0]
    node.output[0] = constants.tensor(f"{label(node)}.untransposed")
    index = next(place for place, other in enumerate(graph.node) if other is node or other == node)
    graph.node.insert(
        index + 1,
        onnx.helper.make_node("Transpose", [node.output[0]], [result], f"{result}.transpose", perm=list(perm)),
    )
