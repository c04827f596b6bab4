"""The type that each convolution and matrix product of an ONNX graph computes in, read from the graph itself."""

from dataclasses import dataclass

from export.onnxlib import onnx
from export.structure import label, producers, tensor_specs

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "QGemm"})
INTEGER = frozenset({"ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul", "QGemm"})

TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int8": "int8",
    "uint8": "int8",
    "float8_e4m3fn": "fp8",
}
"""The toolkit's name of a precision, by numpy's name of the element type."""

MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze"})
"""Operators that carry a quantised value on without computing anything new."""


@dataclass(frozen=True)
class GraphLayer:
    """One convolution or matrix product.

    Attributes:
        name: the node's name.
        op: its operator ("Conv").
        kind: "conv" or "matmul".
        type: what it computes in: "fp32", "fp16", "bf16", "int8", "fp8", or "unknown".
    """

    name: str
    op: str
    kind: str
    type: str


def layer_types(model: onnx.ModelProto) -> list[GraphLayer]:
    """The type of every convolution and matrix product, in graph order.

    A node counts as quantised when both its data and its weights come out of a DequantizeLinear; the
    type is then that of the quantised data. Otherwise it is the type of its data input.

    Raises:
        GraphError: the graph's types contradict each other.
    """
    specs = tensor_specs(model)
    made_by = producers(model.graph)

    def element(tensor: str) -> str:
        return TYPES.get(specs[tensor].dtype, "unknown") if tensor in specs else "unknown"

    def quantised(tensor: str) -> str | None:
        """The stored type behind a DequantizeLinear that feeds this tensor."""
        node = made_by.get(tensor)
        while node is not None and node.op_type in MOVES:
            tensor = node.input[0]
            node = made_by.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return element(node.input[0])

    layers = []
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS | PRODUCTS:
            continue
        if node.op_type in INTEGER:
            kind_of = "int8"
        else:
            stored = [quantised(name) for name in node.input[:2]]
            kind_of = element(node.input[0]) if None in stored else str(stored[0])
        layers.append(
            GraphLayer(label(node), node.op_type, "conv" if node.op_type in CONVOLUTIONS else "matmul", kind_of)
        )
    return layers
