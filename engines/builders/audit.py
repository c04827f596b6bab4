"""Which precision an engine's layers really have, and the check that it is the one asked for.

A builder accepts graphs that it then runs in another type without a word: a wrongly placed Q/DQ pair
becomes a float convolution, a graph that was never typed stays FP32. So the layers are read back from
the built engine (:mod:`engines.builders.rtx_plan`, :mod:`engines.builders.inspector`) and compared.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engines.errors import AuditError, EngineFormatError

Kind = Literal["conv", "matmul", "other"]

MISSING = "not found"
"""The type of a node that no layer of the engine names."""

_WIDTH = {"fp32": 4, "bf16": 3, "fp16": 2, "fp8": 1, "int8": 0}
_NAMED_AT_MOST = 8


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: what the builder calls it.
        nodes: the ONNX nodes that it computes, or parts of them.
        kind: convolution, matrix product, or anything else.
        type: what it computes on: "fp32", "fp16", "bf16", "int8", "fp8"; for a convolution or product the wider of
            data and weights. Other element types ("int64") and :data:`MISSING` occur too.
    """

    name: str
    nodes: tuple[str, ...]
    kind: Kind
    type: str

    @property
    def label(self) -> str:
        """The ONNX node that it stands for: the one that its name begins with, else the first."""
        named = [node for node in self.nodes if self.name.startswith(node)]
        return max(named, key=len) if named else (self.nodes[0] if self.nodes else self.name)


@dataclass(frozen=True)
class LayerReport:
    """The layers of one engine.

    Attributes:
        layers: every layer that was found.
        source: how they were read: "plan", "inspector", "graph".
    """

    layers: tuple[Layer, ...]
    source: str

    @property
    def heavy(self) -> tuple[Layer, ...]:
        """The convolutions and matrix products."""
        return tuple(layer for layer in self.layers if layer.kind != "other")

    def shares(self) -> dict[str, float]:
        """The share of the convolutions and matrix products that each type has, the largest first."""
        counts = Counter(layer.type for layer in self.heavy)
        return {kind: count / counts.total() for kind, count in counts.most_common()}

    def covering(self, nodes: Mapping[str, Kind]) -> "LayerReport":
        """The report seen from the graph's side: every convolution and matrix product of the graph is in it.

        A node without a convolution or product layer of its own may be part of a generated kernel: the layers that
        name it are then judged as its kind. One that no layer names is added as :data:`MISSING`.

        Args:
            nodes: names of the graph's convolutions and matrix products.
        """
        covered = {node for layer in self.heavy for node in layer.nodes}
        layers = list(self.layers)
        for node, kind in nodes.items():
            if node in covered:
                continue
            carriers = [index for index, layer in enumerate(layers) if node in layer.nodes]
            for index in carriers:
                layers[index] = replace(layers[index], kind=kind)
            if not carriers:
                layers.append(Layer(node, (node,), kind, MISSING))
        return replace(self, layers=tuple(layers))

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "shares": self.shares(),
            "layers": [
                {"name": layer.name, "nodes": list(layer.nodes), "kind": layer.kind, "type": layer.type}
                for layer in self.layers
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LayerReport":
        """Read what :meth:`to_json` wrote.

        Raises:
            EngineFormatError: it isn't that.
        """
        try:
            layers = tuple(
                Layer(str(item["name"]), tuple(map(str, item["nodes"])), _kind(item["kind"]), str(item["type"]))
                for item in value["layers"]
            )
            return cls(layers, str(value["source"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFormatError(f"the layer report is damaged: {error}", "build the engine again") from error


def audit(
    report: LayerReport,
    precision: str,
    *,
    keep: Collection[str] = (),
    modules: Callable[[], Mapping[str, str]] = dict,
    allow_partial: bool = False,
) -> tuple[str, ...]:
    """Check that every convolution and matrix product has the precision that was asked for.

    Args:
        report: the engine's layers, best seen from the graph's side (:meth:`LayerReport.covering`).
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        keep: ONNX nodes that were left in a wider type on purpose; one that isn't wider is an error too.
        modules: gives ONNX node → the PyTorch module that it comes from, to be named beside it; called only where
            there is a layer to be named.
        allow_partial: layers in a wider type than asked for, or that no layer names, are told instead of refused,
            as long as one layer has the precision. A narrower type, and a kept node that isn't wider, stay errors.

    Returns:
        The layers that ``allow_partial`` let pass, in words; empty without it.

    Raises:
        AuditError: some have another type, or none could be read; it names them.
    """
    if not report.heavy:
        raise AuditError(
            "no convolution or matrix product was found among the engine's layers, so its precision isn't proven",
            "check the graph with `toolkit inspect`; an engine of a newer library may need a newer toolkit",
        )
    kept = [layer for layer in report.heavy if not set(keep).isdisjoint(layer.nodes)]
    # TensorRT for RTX 1.7 was seen to run Cast → Conv → Cast in the outer type, whatever the weights' range.
    if narrowed := [layer for layer in kept if layer.type == precision]:
        raise AuditError(
            f"kept wider than {precision} on purpose, but in the engine {_named(narrowed, modules())}",
            "keep the operator that follows in the wider type too, so that no cast touches the node",
        )
    wrong = [layer for layer in report.heavy if layer.type != precision and layer not in kept]
    if not wrong:
        return ()
    refused = wrong
    if allow_partial:
        narrow = [layer for layer in wrong if layer.type != MISSING and not _is_wider(layer.type, precision)]
        has_some = any(layer.type == precision for layer in report.heavy)
        refused = narrow if has_some else wrong
        if not refused:
            return tuple(_said(wrong, modules()))
    raise AuditError(
        f"asked for {precision}, but in the engine {_named(refused, modules())}", _remedy(precision, refused)
    )


def _is_wider(kind: str, precision: str) -> bool:
    return _WIDTH.get(kind, -1) > _WIDTH[precision]


def _said(layers: list[Layer], modules: Mapping[str, str]) -> list[str]:
    # A node has a layer for each optimisation profile; it is said once.
    def kind(layer: Layer) -> str:
        module = modules.get(layer.label, layer.label)
        return layer.kind if module == layer.label else f"{layer.kind}, {module}"

    return list(dict.fromkeys(f"'{layer.label}' ({kind(layer)}) is {layer.type}" for layer in layers))


def _named(layers: list[Layer], modules: Mapping[str, str]) -> str:
    said = _said(layers, modules)
    more = f" and {len(said) - _NAMED_AT_MOST} more" if len(said) > _NAMED_AT_MOST else ""
    return ", ".join(said[:_NAMED_AT_MOST]) + more


def _remedy(precision: str, wrong: list[Layer]) -> str:
    if all(layer.type == MISSING for layer in wrong):
        return "the builder merged or dropped these nodes: simplify the graph, or name them as kept"
    if precision == "fp8":
        return (
            "name these nodes as kept (--keep): FP8 convolutions want filters of at most 32 weights in space, some"
            " libraries more than 16 channels; or check their Q/DQ pairs: FP8 on both inputs, weight scales on axis 0"
        )
    if precision == "int8":
        return (
            "check the Q/DQ pairs of these nodes: one scale for the activation, per-channel weight scales on axis 0"
            " (axis 1 for ConvTranspose), zero point 0; or name the nodes as kept, or --allow-partial"
        )
    return f"type the graph first: `toolkit build-engine GRAPH.onnx --{precision}` does"


def widest(types: Collection[str]) -> str:
    """The type that decides how a layer computes: the widest of what it reads ("fp32" of fp32 and int8)."""
    known = [kind for kind in types if kind in _WIDTH]
    return max(known, key=_WIDTH.__getitem__) if known else next(iter(types), "unknown")


def onnx_nodes(text: str) -> tuple[str, ...]:
    """The node names in a builder's metadata: "[ONNX Layer: a]" groups, joined by nothing or a control character."""
    found = re.findall(r"\[ONNX Layer: (.*?)\](?=[\x00-\x1f]|\[ONNX Layer: |$)", text, re.DOTALL)
    return tuple(dict.fromkeys(found))


def _kind(value: object) -> Kind:
    if value == "conv":
        return "conv"
    if value == "matmul":
        return "matmul"
    if value == "other":
        return "other"
    raise ValueError(f"layer kind {value!r}")
