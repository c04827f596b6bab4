"""A graph that takes raw pictures: uint8, channels last.

1. The float input [batch, C, H, W] becomes a uint8 input [batch, H, W, C] of the same name.
2. Behind it come Cast to float, Transpose to channels first, Mul and Add with the factor and offset of
   :meth:`engines.preprocess.Preprocess.affine`: the same two roundings a pixel, in the same order, as
   :meth:`engines.preprocess.Preprocess.normalise`, so that the two are bit-equal.
"""

from engines.errors import GraphError
from engines.preprocess import Preprocess
from export.onnxlib import onnx
from export.structure import names, unique


def take_uint8_input(graph: onnx.GraphProto, preprocess: Preprocess) -> bool:
    """Apply the rules above.

    Returns:
        Whether the graph changed; a graph that takes uint8 already doesn't.

    Raises:
        GraphError: the graph's input isn't what ``preprocess`` makes.
    """
    value = graph.input[0]
    tensor = value.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.UINT8:
        return False
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if shape[1:] != [preprocess.channels, preprocess.height, preprocess.width]:
        raise GraphError(
            f"input '{value.name}' has shape {shape}, not what the preprocessing makes",
            "export with the --input-size that the model was trained at",
        )
    taken = names(graph)
    result = {step: unique(f"pixels.{step}", taken) for step in ("cast", "transpose", "scale", "shift")}
    scale, shift = (unique(f"pixels.{name}", taken) for name in ("factor", "offset"))
    for name, values in zip((scale, shift), preprocess.affine(), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(values.reshape(1, -1, 1, 1), name))
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == value.name:
                node.input[position] = result["shift"]
    make = onnx.helper.make_node
    nodes = [
        make("Cast", [value.name], [result["cast"]], result["cast"], to=onnx.TensorProto.FLOAT),
        make("Transpose", [result["cast"]], [result["transpose"]], result["transpose"], perm=[0, 3, 1, 2]),
        make("Mul", [result["transpose"], scale], [result["scale"]], result["scale"]),
        make("Add", [result["scale"], shift], [result["shift"]], result["shift"]),
    ]
    rest = list(graph.node)
    copies = [onnx.NodeProto() for _ in rest]
    for copy, node in zip(copies, rest, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend([*nodes, *copies])
    tensor.elem_type = onnx.TensorProto.UINT8
    for dim, size in zip(
        tensor.shape.dim[1:], (preprocess.height, preprocess.width, preprocess.channels), strict=True
    ):
        dim.dim_value = size
    return True
