"""Carries a calibration table over to an export of the same network that calls its tensors otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from calibration.ranges import WEIGHTED, Ranges
from calibration.signature import content_digest, identify
from calibration.table import CalibrationTable
from engines.errors import TableError
from export.graph import weights_digest
from export.onnxlib import onnx
from export.structure import label

_CALIBRATE = "calibrate this graph"


@dataclass(frozen=True)
class Names:
    """What stands for the names of a graph.

    Attributes:
        tensors: the signature of every activation by its name (:mod:`calibration.signature`).
        content: the digest of the weights, whatever they are called.
        nodes: the signature of every node that can be kept back, by its name.
    """

    tensors: Mapping[str, str]
    content: str
    nodes: Mapping[str, str]


def names_of(model: onnx.ModelProto, digests: Mapping[str, str] | None = None) -> Names:
    """What stands for the names of ``model``; ``digests`` as for :func:`calibration.signature.identify`."""
    identity = identify(model, digests)
    return Names(identity.tensors, identity.content, _nodes(model, identity.tensors))


def sign(table: CalibrationTable, model: onnx.ModelProto | Names) -> CalibrationTable:
    """The table with what identifies its tensors and nodes whatever their names, for :func:`rename` to find them by.

    Args:
        table: a table of ``model``.
        model: the FP32 master graph, or what stands for its names.
    """
    names = model if isinstance(model, Names) else names_of(model)
    ranges = {name: replace(found, signature=names.tensors.get(name, "")) for name, found in table.ranges.items()}
    return replace(table, ranges=ranges, content=names.content, nodes=names.nodes)


def rename(table: CalibrationTable, model: onnx.ModelProto) -> CalibrationTable:
    """The table with the names that its tensors and nodes have in ``model``, found by their signatures.

    What ``model`` has no use for is left out. Where it computes one tensor several times, each gets the same range.

    Args:
        table: made from another export of the same network with the same weights, and signed.
        model: the FP32 master graph to name the tensors of.

    Raises:
        TableError: the table wasn't signed, the weights are others, or a tensor or node can't be found: it is named.
        GraphError: the graph's types contradict each other.
    """
    if not table.content or not all(found.signature for found in table.ranges.values()):
        raise TableError(
            "the calibration table doesn't tell what its names stand for: an older toolkit made it", _CALIBRATE
        )
    identity = identify(model)
    if table.content != identity.content:
        raise TableError("the calibration table is stale: the weights changed since", _CALIBRATE)
    known = identity.tensors
    wanted = Ranges(model).wanted()
    by_signature = {found.signature: name for name, found in table.ranges.items()}
    names = {name: by_signature[known[name]] for name in wanted if known.get(name) in by_signature}
    _require("tensor", [name for name in wanted if name not in names])
    groups = _inverse(names)
    nodes = _inverse({new: old for new, found in _nodes(model, known).items() for old in _named(table.nodes, found)})
    _require("node", [name for name in (*table.keep, *table.biases) if name not in nodes], "the table's ")
    _require("tensor", [name for name in table.equalisation if name not in groups], "the table's ")
    return replace(
        table,
        ranges={new: replace(table.ranges[old], tap=wanted[new].tap) for new, old in names.items()},
        weights=weights_digest(model),
        keep=tuple(dict.fromkeys(new for old in table.keep for new in nodes[old])),
        equalisation={new: values for old, values in table.equalisation.items() for new in groups[old]},
        biases={new: values for old, values in table.biases.items() for new in nodes[old]},
        nodes=_nodes(model, known),
    )


def fit(table: CalibrationTable, model: onnx.ModelProto) -> CalibrationTable:
    """The table as it is where it is of ``model``, renamed where it is of another export with the same weights.

    A table of other weights, or one that wasn't signed, comes back as it is: :func:`check_table` refuses it and says
    what changed.

    Raises:
        TableError: the weights are the same, but a tensor or node can't be found: it is named.
    """
    if table.weights == weights_digest(model) or not table.content or table.content != content_digest(model):
        return table
    return rename(table, model)


def _nodes(model: onnx.ModelProto, known: Mapping[str, str]) -> dict[str, str]:
    """The signatures of convolutions, products and what joins branches: the nodes that can be kept back."""
    kept = WEIGHTED | {"Add", "Concat", "AveragePool", "GlobalAveragePool"}
    return {
        label(node): known[node.output[0]]
        for node in model.graph.node
        if node.op_type in kept and node.output[0] in known
    }


def _named(names: Mapping[str, str], signature: str) -> list[str]:
    return [name for name, found in names.items() if found == signature]


def _inverse(names: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for new, old in names.items():
        found.setdefault(old, []).append(new)
    return found


def _require(what: str, missing: list[str], whose: str = "") -> None:
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        if whose:
            raise TableError(f"{whose}{what} '{missing[0]}'{more} isn't in this graph", _CALIBRATE)
        raise TableError(
            f"the calibration table has no range for {what} '{missing[0]}'{more}, whatever it was called", _CALIBRATE
        )
