"""Names: every node has one of its own; what the exporter called it is kept.

1. A node without a name is called like its operator; one whose name another node has already gets a number.
2. Tensors, inputs and outputs keep their names: clients and calibration tables know them.
"""

from export.onnxlib import onnx
from export.structure import unique


def name_nodes(graph: onnx.GraphProto) -> tuple[int, int]:
    """Apply the rules above.

    Returns:
        How many nodes had no name, and how many had that of another one.
    """
    given = {node.name for node in graph.node}
    taken: set[str] = set()
    nameless = twice = 0
    for node in graph.node:
        if node.name and node.name not in taken:
            taken.add(node.name)
            continue
        if node.name:
            twice += 1
        else:
            nameless += 1
        used = taken | given
        node.name = unique(node.name or node.op_type.lower(), used)
        taken.add(node.name)
    return nameless, twice
