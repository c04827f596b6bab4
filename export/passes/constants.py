"""Constant nodes become initializers.

1. A ``Constant`` node with a tensor, number or list of numbers is replaced by an initializer of the same name.
2. Constants of other kinds (sparse, strings) stay.
3. A ``Constant`` inside a subgraph stays.
"""

import numpy as np

from export.onnxlib import onnx

_LISTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def constants_to_initializers(graph: onnx.GraphProto) -> bool:
    """Apply the rules above.

    Returns:
        Whether the graph changed.
    """
    modified = False
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"} or len(node.attribute) != 1:
            continue
        item = node.attribute[0]
        tensor = onnx.TensorProto()
        if item.name == "value":
            tensor.CopyFrom(item.t)
        elif item.name in _LISTS:
            values = np.asarray(onnx.helper.get_attribute_value(item), _LISTS[item.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(values))
        else:
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        del graph.node[index]
        modified = True
    return modified
