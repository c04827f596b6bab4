"""What TensorRT would do with the Q/DQ nodes of a graph, for people."""

from typing import TYPE_CHECKING

from toolkit.inspection.report import Facts, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calibration.lint import Finding

TITLE = "for TensorRT"
_SHOWN = 8
"""Nodes with the same problem that are shown; JSON holds all of them."""

_TAKE_OVER = (
    "take over its ranges: toolkit calibrate MODEL.onnx --from {file}, then toolkit build-engine MODEL.onnx --int8"
)
_MEASURE = (
    "it holds no ranges to take over: toolkit calibrate MODEL.onnx --data DATA, then toolkit build-engine MODEL.onnx "
    "--int8"
)


def for_tensorrt(
    findings: "Sequence[Finding]", layers: int, file: str, *, quantised: bool, placement: str | None
) -> list[Facts | Table]:
    """A line of summary, and a row a node with what is wrong, what TensorRT makes of it, and the remedy.

    Args:
        findings: of :func:`calibration.lint.lint`.
        layers: how many convolutions and matrix products the graph has.
        file: the graph's name.
        quantised: whether it has Q/DQ nodes at all.
        placement: the target that this toolkit placed them for; None for a foreign graph.
    """
    from calibration.lint import verdict

    if not findings:
        return [Facts(TITLE, (("TensorRT", verdict(findings, layers)),))] if quantised else []
    if placement == "onnxruntime":
        why = f"{verdict(findings, layers)}: the graph is placed for ONNX Runtime on purpose"
        return [
            Facts(TITLE, (("TensorRT", why), ("remedy", "build TensorRT's graph from the same calibration table")))
        ]
    rows = [("TensorRT", verdict(findings, layers))]
    if placement is None and any(item.fatal for item in findings):
        rows.append(("remedy", (_TAKE_OVER if quantised else _MEASURE).format(file=file)))
    table = Table(f"{TITLE}, node by node", ("node", "what", "effect", "remedy"), tuple(_rows(findings)))
    return [Facts(TITLE, tuple(rows)), table]


def _rows(findings: "Sequence[Finding]") -> list[tuple[str, ...]]:
    """The findings of one kind together, the worst kinds first, long lists of nodes cut."""
    from calibration.lint import FLOAT, REFUSED, SLOW, WRONG

    order = (REFUSED, WRONG, FLOAT, SLOW)
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for item in sorted(findings, key=lambda item: order.index(item.effect)):
        kinds.setdefault((item.problem, item.effect, item.remedy), []).append(item.node)
    rows: list[tuple[str, ...]] = []
    for kind, nodes in kinds.items():
        rows += [(node, *kind) for node in nodes[:_SHOWN]]
        if len(nodes) > _SHOWN:
            rows.append((f"… and {len(nodes) - _SHOWN} more", *kind))
    return rows
