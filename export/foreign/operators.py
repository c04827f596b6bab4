"""What a foreign graph holds that can't become a master graph, each with the reason and what to do about it.

1. Operators of other domains: ONNX Runtime's fused ones, classical machine learning, ATen, plug-ins.
2. A graph that is quantised already.
3. Strings, sequences and optional values; random numbers; operators in training mode.
4. Control flow (``If``, ``Loop``, ``Scan``) that its constants don't decide: no typed precision can be given to it.
"""

from collections import Counter

from engines.errors import GraphError
from export.foreign.edit import Constants, is_plain, with_subgraphs
from export.onnxlib import onnx
from export.structure import attribute, label

_REMEDIES = {
    "com.microsoft": "export it again without ONNX Runtime's optimisation: give the graph from before "
    "optimized_model_filepath, or of the optimizer",
    "com.microsoft.nchwc": "give the graph from before ONNX Runtime's optimized_model_filepath: this one is laid out "
    "for one processor",
    "com.ms.internal.nhwc": "give the graph from before ONNX Runtime's optimized_model_filepath",
    "ai.onnx.ml": "keep what neural layers alone make: --outputs NAME; classical models (trees, scalers, label "
    "tables) run in ONNX Runtime as they are",
    "ai.onnx.contrib": "export the network without its pre- and post-processing (onnxruntime-extensions)",
    "org.pytorch.aten": "export it again without the fallback to ATen: torch.onnx.export(..., dynamo=True)",
    "ai.onnx.preview.training": "export the network for inference: it holds steps of training",
}

_QUANTISED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_NO_TENSORS = frozenset(
    {
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "RegexFullMatch",
        "TfIdfVectorizer",
        "ImageDecoder",
    }
)

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def refuse_operators(model: onnx.ModelProto, name: str) -> None:
    """Refuse what rules 1 to 3 say.

    Raises:
        GraphError: naming the node.
    """
    _domains(model.graph, name)
    quantised = [node for node in model.graph.node if is_plain(node) and node.op_type in _QUANTISED]
    if quantised:
        raise GraphError(
            f"{name} is quantised already: {len(quantised)} nodes such as {_named(quantised[0])}",
            "import the float graph that it was made from, then "
            + (
                "take its ranges over: toolkit calibrate MASTER.onnx --from THIS.onnx"
                if {node.op_type for node in quantised} <= _PAIRS
                else "measure its ranges: toolkit calibrate MASTER.onnx --data DATA"
            ),
        )
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in {"tensor_type", None} or value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            what = "strings" if kind == "tensor_type" else str(kind).removesuffix("_type").replace("_", " ")
            raise GraphError(
                f"{name} takes or gives {what}: '{value.name}'",
                "export the network alone, from tensors of numbers to tensors of numbers",
            )
    for node in model.graph.node:
        if node.op_type in _NO_TENSORS:
            raise GraphError(
                f"{name} computes with sequences or strings: node {_named(node)}",
                "export the network alone, from tensors of numbers to tensors of numbers",
            )
        if node.op_type in _RANDOM:
            raise GraphError(
                f"{name} draws random numbers: node {_named(node)}", "export it for inference (model.eval())"
            )
        if _trains(node, Constants(model.graph)):
            raise GraphError(
                f"{name} is in training mode: node {_named(node)}", "export it for inference (model.eval())"
            )


def refuse_control_flow(graph: onnx.GraphProto, name: str) -> None:
    """Refuse what rule 4 says.

    Raises:
        GraphError: naming the node.
    """
    left = with_subgraphs(graph)
    if left:
        raise GraphError(
            f"{name} decides at run time what it computes: node {_named(left[0])}"
            + (f" and {len(left) - 1} more" if len(left) > 1 else ""),
            "export it at a fixed control flow, or with fixed sizes: precision can't be given to its branches",
        )


def _domains(graph: onnx.GraphProto, name: str) -> None:
    foreign = [node for node in graph.node if not is_plain(node)]
    if not foreign:
        return
    counts = Counter(f"{node.domain}::{node.op_type}" for node in foreign)
    kinds = ", ".join(kind for kind, _ in counts.most_common(3)) + (", ..." if len(counts) > 3 else "")
    first = foreign[0]
    remedy = _REMEDIES.get(
        first.domain, f"export it with standard operators: only what made it knows the domain '{first.domain}'"
    )
    raise GraphError(
        f"{name} has {len(foreign)} nodes of operators that aren't ONNX's own ({kinds}), the first is "
        f"'{label(first)}'",
        remedy,
    )


def _trains(node: onnx.NodeProto, constants: Constants) -> bool:
    if node.op_type == "BatchNormalization":
        return bool(attribute(node, "training_mode", 0)) or len([name for name in node.output if name]) > 1
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = constants.get(node.input[2])
        return mode is None or bool(mode.any())
    return False


def _named(node: onnx.NodeProto) -> str:
    return f"'{label(node)}' ({node.op_type})"
