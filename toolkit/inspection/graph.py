"""A graph: operators, element types, Q/DQ, the types its layers compute in, and what travels in its metadata."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.optional import require
from engines.tensors import TensorSpec
from toolkit.inspection.measured import measured_sections
from toolkit.inspection.passport import (
    passport_facts,
    read_beside,
    reason_rows,
    reasons_json,
    shares_table,
)
from toolkit.inspection.quantisation import for_tensorrt
from toolkit.inspection.report import (
    Facts,
    Report,
    Table,
    count_text,
    flatten,
    metadata_facts,
    size_text,
    tensor_facts,
)

if TYPE_CHECKING:
    import onnx


def inspect_graph(path: Path) -> Report:
    """Describe an ONNX graph.

    Raises:
        GraphError: it is damaged, invalid or of an unsupported opset.
        MissingLibraryError: onnx is not installed.
    """
    require("onnx", "Inspecting a graph", "onnxruntime")
    from calibration.lint import lint
    from export import graph as helper

    model = helper.load_graph(path)
    specs = helper.tensor_specs(model)
    metadata, derived = helper.read_metadata(model), helper.read_derived(model)
    verification = helper.read_verification(model)
    operators = Counter(node.op_type for node in model.graph.node)
    layers = helper.layer_types(model)
    stored = _weights(model)
    quantised = _quantised(model, specs)
    inputs, outputs = helper.inputs(model), helper.outputs(model)
    passport, reasons = read_beside(path)
    value: dict[str, Any] = {
        "opset": helper.check_opset(model, str(path)),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [spec.to_json() for spec in inputs],
        "outputs": [spec.to_json() for spec in outputs],
        "operators": dict(operators.most_common()),
        "weights": stored,
        "layers": [vars(layer) for layer in layers],
        "layer_types": dict(Counter(layer.type for layer in layers).most_common()),
        "quantisation": quantised,
        "metadata": metadata.to_json() if metadata else None,
        "derived": vars(derived) if derived else None,
        "verification": verification,
        "passport": passport.to_json() if passport else None,
        "reasons_not_to_run": reasons_json(reasons),
    }
    facts = Facts(
        "graph",
        (
            ("file", str(path)),
            ("size", size_text(path.stat().st_size)),
            ("opset", f"{value['opset']} (IR {model.ir_version})"),
            ("written by", value["producer"] or "unknown"),
            *tensor_facts(inputs, outputs),
            ("operators", _counts(operators)),
            *(
                (f"weights in {name}", f"{count_text(kind['values'])} ({size_text(kind['bytes'])})")
                for name, kind in stored.items()
            ),
            (
                "layers compute in",
                _counts(Counter(layer.type for layer in layers)) or "nothing: there are none",
            ),
            *_quantised_facts(quantised),
            *reason_rows(reasons),
        ),
    )
    sections: list[Facts | Table] = [facts, metadata_facts(metadata)]
    if derived:
        sections.append(Facts("derived", tuple(flatten({k: v for k, v in vars(derived).items() if v}))))
    if verification:
        sections.append(_verification(verification))
    if passport:
        sections += [passport_facts(passport), *measured_sections(passport.measurements)]
    if layers:
        sections.append(shares_table([(layer.kind, layer.type) for layer in layers]))
    rows = tuple((layer.name, layer.op, layer.type) for layer in layers)
    sections.append(Table("convolutions and matrix products", ("node", "operator", "computes in"), rows))
    findings = lint(model)
    value["findings"] = [vars(finding) for finding in findings]
    placement = derived.placement if derived else None
    sections += for_tensorrt(findings, len(layers), path.name, quantised=bool(quantised), placement=placement)
    return Report("graph", path, tuple(sections), value)


def _verification(record: Mapping[str, Any]) -> Facts:
    """What was measured against PyTorch, or the imported file, a line a kind of input."""
    from export.verification import PYTORCH, Verification

    verification = Verification.from_json(record)
    *lines, verdict = verification.summary()
    against = "PyTorch" if verification.reference == PYTORCH else verification.reference
    rows = [(f"against {against}", verdict)]
    for line in lines:
        kind, colon, rest = line.partition(", ")
        rows.append((kind, rest) if colon else ("problem", line))
    libraries = ", ".join(f"{name} {version}" for name, version in verification.versions.items())
    return Facts("verification", (*rows, ("measured with", libraries)))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _weights(model: "onnx.ModelProto") -> dict[str, dict[str, int]]:
    """How many constants of each element type, and their bytes, the most bytes first."""
    from export.structure import all_tensors, tensor_bytes, type_name

    found: dict[str, dict[str, int]] = {}
    for tensor in all_tensors(model.graph):
        kind = found.setdefault(type_name(tensor.data_type), {"tensors": 0, "values": 0, "bytes": 0})
        count = 1
        for size in tensor.dims:
            count *= size
        kind["tensors"] += 1
        kind["values"] += count
        kind["bytes"] += tensor_bytes(tensor)
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _quantised(model: "onnx.ModelProto", specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """What the graph's Q/DQ nodes do; empty where there are none.

    A pair that quantises an activation is counted by its QuantizeLinear; weights that are stored
    quantised by their DequantizeLinear.
    """
    from export.structure import initializers

    constants = initializers(model.graph)
    activations: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kind = specs[node.output[0]].dtype if node.output[0] in specs else "unknown"
            activations[f"{kind} {_granularity(node, specs)}"] += 1
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[f"{specs[node.input[0]].dtype} {_granularity(node, specs)}"] += 1
    if not activations and not weights:
        return {}
    return {"activations": dict(activations.most_common()), "constants": dict(weights.most_common())}


def _granularity(node: "onnx.NodeProto", specs: Mapping[str, TensorSpec]) -> str:
    from export.structure import attribute

    scale = specs.get(node.input[1])
    if scale is None or not scale.shape or scale.shape == (1,):
        return "per tensor"
    if len(scale.shape) > 1:
        return "per block"
    return f"per channel (axis {attribute(node, 'axis', 1)})"


def _quantised_facts(quantised: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(f"quantised {what}", _counts(Counter(counts))) for what, counts in quantised.items() if counts]
