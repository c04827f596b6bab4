"""Shapes that a graph computes at run time, though only the batch in them varies, become constants.

Exporters trace ``x.view(x.size(0), -1)`` into five nodes. The graph is run at two batch sizes; what each computed
shape is then tells what it depends on:

1. A shape that stays the same is a constant.
2. A ``Reshape`` whose shape varies in one number: that becomes 0 where it is the first and equals the input's first
   dimension at both sizes, else -1.
3. All others stay computed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.foreign.edit import Constants, is_plain
from export.foreign.running import Arrays, Runner
from export.onnxlib import onnx
from export.structure import attribute, label, remove_unused, set_attribute

SIZES = (2, 3)

_SHAPED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3, "Tile": 1, "Slice": 2, "Unsqueeze": 1}
"""Operators by the input that holds a shape or sizes."""


def settle_shapes(model: onnx.ModelProto, feeds: Callable[[int], Arrays]) -> int:
    """Apply the rules above.

    Args:
        model: it runs at other batch sizes; it is changed in place.
        feeds: inputs for a batch of some size.

    Returns:
        How many computed shapes became constants.

    Raises:
        GraphError: the graph can't be run at these sizes.
    """
    graph, constants = model.graph, Constants(model.graph)
    found = []
    for node in graph.node:
        place = _SHAPED.get(node.op_type) if is_plain(node) else None
        if place is not None and place < len(node.input) and node.input[place] and node.input[place] not in constants:
            found.append((node, place))
    if not found:
        return 0
    wanted = {node.input[place] for node, place in found}
    wanted |= {node.input[0] for node, _ in found if node.op_type == "Reshape"}
    values = _run(model, sorted(wanted), feeds)
    settled = 0
    for node, place in found:
        two, three = (each[node.input[place]] for each in values)
        new: NDArray[Any] | None = two if two.shape == three.shape and (two == three).all() else None
        if new is None and node.op_type == "Reshape" and two.shape == three.shape:
            new = _free(two, three, [each[node.input[0]].shape for each in values])
            if new is not None and attribute(node, "allowzero", 0):
                set_attribute(node, "allowzero", 0)
        if new is not None:
            node.input[place] = constants.add(new, f"{label(node)}.shape")
            settled += 1
    if settled:
        remove_unused(graph)
    return settled


def _free(two: NDArray[Any], three: NDArray[Any], shapes: list[tuple[int, ...]]) -> NDArray[Any] | None:
    """Rule 2."""
    varying = np.flatnonzero(two != three)
    if len(varying) != 1:
        return None
    place = int(varying[0])
    copied = place == 0 and all(each[0] == shape[0] for each, shape in zip((two, three), shapes, strict=True))
    if not copied and (np.delete(two, place) < 1).any():
        return None
    new: NDArray[np.int64] = two.astype(np.int64)
    new[place] = 0 if copied else -1
    return new


def _run(model: onnx.ModelProto, wanted: list[str], feeds: Callable[[int], Arrays]) -> list[Arrays]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    own = {value.name for value in probe.graph.input}
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in own)
    remove_unused(probe.graph)
    results: list[Arrays] = []
    with Runner(probe, optimised=False) as runner:
        for size in SIZES:
            given = feeds(size)
            read = {value.name for value in probe.graph.input}
            results.append({**given, **runner.run({name: value for name, value in given.items() if name in read})})
    return results
