"""The engine of ONNX Runtime: the typed graph itself, audited and opened once."""

from typing import TYPE_CHECKING

from engines.builders.audit import Kind, Layer, LayerReport
from engines.installed import library_version
from engines.sessions import open_session
from export.graph import layer_types

if TYPE_CHECKING:
    from engines.sessions.base import SessionInfo
    from toolkit.building.typed_graph import TypedGraph

_KINDS: dict[str, Kind] = {"conv": "conv", "matmul": "matmul"}


def graph_layers(typed: "TypedGraph") -> LayerReport:
    """The convolutions and matrix products of a graph with the type that each computes in."""
    layers = (
        Layer(layer.name, (layer.name,), _KINDS.get(layer.kind, "other"), layer.type)
        for layer in layer_types(typed.structure)
    )
    return LayerReport(tuple(layers), "graph")


def prove_it_opens(typed: "TypedGraph") -> "SessionInfo":
    """Open the graph in ONNX Runtime once, on the CPU.

    Raises:
        GraphError: ONNX Runtime refuses it; the reason is its own.
    """
    with open_session(typed.path, backend="onnxruntime", device="cpu") as session:
        return session.info


def versions() -> dict[str, str]:
    """The ONNX Runtime that takes part."""
    found = library_version("onnxruntime")
    return {"onnxruntime": found} if found else {}
