"""What TensorRT and TensorRT for RTX make of the Q/DQ nodes in a graph, whoever wrote it, node by node."""

from collections.abc import Sequence
from pathlib import Path

from calibration.lint_rules import FLOAT, REFUSED, SLOW, UNSUPPORTED, WRONG, Finding, Rules
from engines.errors import GraphError
from export.onnxlib import onnx

__all__ = ["FLOAT", "REFUSED", "SLOW", "UNSUPPORTED", "WRONG", "Finding", "lint", "require_fusible", "verdict"]

_QUANTISED = UNSUPPORTED | {"QuantizeLinear", "DequantizeLinear"}
_DOES = {
    REFUSED: "TensorRT refuses",
    WRONG: "TensorRT would silently compute wrong results from",
    FLOAT: "TensorRT would silently run in float",
}


def lint(model: onnx.ModelProto) -> list[Finding]:
    """What TensorRT would refuse, run in float or compute wrongly, in graph order; none for a graph without Q/DQ.

    Raises:
        GraphError: the graph's types or shapes contradict each other.
    """
    if not any(node.op_type in _QUANTISED for node in model.graph.node):
        return []
    return list(Rules(model).findings())


def require_fusible(model: onnx.ModelProto, path: Path | str, *, allow_float: bool = False) -> tuple[str, ...]:
    """Refuse a graph whose Q/DQ TensorRT would refuse, silently run in float, or silently get wrong.

    Args:
        model: the graph.
        path: what the error calls it.
        allow_float: what would run in float is a finding like the others, not an error.

    Returns:
        The other findings, a line each.

    Raises:
        GraphError: naming the first node at fault and how many more there are.
    """
    findings = lint(model)
    fatal = [item for item in findings if item.fatal and not (allow_float and item.effect == FLOAT)]
    if fatal:
        first = fatal[0]
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        raise GraphError(
            f"{_DOES[first.effect]} node '{first.node}' of '{path}': {first.problem}{more}", first.remedy
        )
    return tuple(f"{item.node}: {item.problem} ({item.effect})" for item in findings)


def verdict(findings: Sequence[Finding], layers: int) -> str:
    """What TensorRT would do with a graph, in one line.

    Args:
        findings: of :func:`lint`.
        layers: how many convolutions and matrix products the graph has.
    """

    def nodes(effect: str) -> int:
        return len({item.node for item in findings if item.effect == effect})

    counts = {
        f"refuse {_nodes(nodes(REFUSED))}": nodes(REFUSED),
        f"compute wrong results from {_nodes(nodes(WRONG))}": nodes(WRONG),
        f"run {nodes(FLOAT)} of {layers} convolutions and matrix products in float": nodes(FLOAT),
        f"run slower because of {_nodes(nodes(SLOW))}": nodes(SLOW),
    }
    parts = [text for text, count in counts.items() if count]
    return f"would {', '.join(parts)}" if parts else "nothing that it would refuse or silently run in float"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
