"""Takes the ranges of a quantised graph that another tool wrote over to the master graph it was made from.

Any graph with Q/DQ nodes serves: of ONNX Runtime's ``quantize_static``, Model Optimizer, NNCF, PyTorch. Only the
ranges of its activations are taken; weights are quantised anew from the master's. A tensor is found in the master by
its name where both have the same place (:mod:`calibration.likeness`), else by its place alone. That the weights are
the same but for rounding is checked, layer by layer.

The table serves TensorRT's placement. ONNX Runtime's wants ranges of results too, which many tools don't measure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calibration.foreign_scales import FP8, Constants, Found, alike, float_weight, found_ranges
from calibration.likeness import Likeness, likeness
from calibration.lint import UNSUPPORTED
from calibration.placement.tensorrt import branch, weight_axis
from calibration.ranges import Ranges, refuse_typed
from calibration.rename import sign
from calibration.table import CalibrationTable, TensorRange
from engines.errors import TableError
from export.graph import read_metadata, weights_digest
from export.onnxlib import onnx
from export.structure import label, producers

METHOD = "foreign"
"""The method that the table of a foreign graph tells."""

_UNSIGNED = frozenset({"Relu", "Sigmoid", "HardSigmoid"})
_CALIBRATE = "measure the ranges: toolkit calibrate MODEL.onnx --data DATA"


def take_over(foreign: onnx.ModelProto, master: onnx.ModelProto, *, name: str = "the graph") -> CalibrationTable:
    """A table of the master's tensors with the ranges of a foreign Q/DQ graph.

    Nodes whose input the foreign graph doesn't quantise are kept back in the table; nothing is guessed. What was left
    out or widened is told in the table's facts.

    Args:
        foreign: the graph with Q/DQ nodes.
        master: the FP32 master graph.
        name: what errors call the foreign graph.

    Raises:
        TableError: it has no static Q/DQ, its weights aren't the master's, or no convolution or matrix product of the
            master could be quantised with what it says.
        GraphError: ``master`` is quantised already, or its types contradict each other.
    """
    refuse_typed(master)
    found, dynamic = found_ranges(foreign)
    if not found or any(node.op_type in UNSUPPORTED for node in foreign.graph.node):
        raise _nothing(foreign, dynamic, name)
    there, here = likeness(foreign), likeness(master)
    ranges = Ranges(master)
    checked = _check_weights(foreign, there, master, here, ranges, name)
    places = _Places(foreign, there, master, here, ranges)
    taken: dict[str, list[Found]] = {}
    lost = []
    for item in found:
        tensor = places.find(item.tensor)
        if tensor is None:
            lost.append(item.tensor)
        else:
            taken.setdefault(ranges.root(tensor), []).append(item)
    wanted = ranges.wanted()
    kept = table_ranges(ranges, {group: items for group, items in taken.items() if group in wanted})
    keep = without_range(ranges, kept)
    if not checked or all(label(node) in keep for node in ranges.nodes if ranges.is_weighted(node)):
        raise TableError(
            f"{name} has another structure than the master graph"
            + (f": '{lost[0]}' isn't found there" if lost else ""),
            "give the graph that was made from this master graph",
        )
    facts: dict[str, Any] = {"source": f"Q/DQ graph written by {_writer(foreign)}"}
    notes = {
        "not quantised there": [group for group in wanted if group not in kept],
        "not found here": lost,
        "scale computed at run time": dynamic,
        "one range for all channels": [item.tensor for item in found if item.channels > 1],
    }
    facts |= {what: list(dict.fromkeys(tensors)) for what, tensors in notes.items() if tensors}
    metadata = read_metadata(master)
    precision = "fp8" if all(item.kind in FP8 for item in found) else "int8"
    table = CalibrationTable(
        kept,
        METHOD,
        weights_digest(master),
        preprocess=metadata.preprocess_digest if metadata else None,
        facts=facts,
        precision=precision,
        keep=keep,
    )
    return sign(table, master)


def table_ranges(ranges: Ranges, taken: dict[str, list[Found]]) -> dict[str, TensorRange]:
    """One range a group, in graph order: the widest of those that its tensors have."""
    result = {}
    for name, group in ranges.wanted().items():
        if items := taken.get(name):
            amax = max(item.amax for item in items)
            made_by = ranges.producers.get(name)
            unsigned = made_by is not None and made_by.op_type in _UNSIGNED
            low = 0.0 if unsigned else min(item.low for item in items)
            result[name] = TensorRange(amax, low, max(item.high for item in items), group.tap)
    return result


def without_range(ranges: Ranges, found: Iterable[str]) -> tuple[str, ...]:
    """The nodes that can't be quantised for TensorRT with these ranges only, in graph order."""
    known = set(found)
    keep: list[str] = []
    for node in ranges.nodes:
        if ranges.is_weighted(node):
            needs = [node.input[0]]
        elif ranges.is_product(node):
            needs = list(node.input)
        elif ranges.is_joining(node) and node.op_type == "Add":
            skip = branch(node, ranges, keep)
            needs = [skip] if skip is not None else []
        else:
            continue
        if any(ranges.root(tensor) not in known for tensor in needs):
            keep.append(label(node))
    return tuple(keep)


@dataclass(frozen=True)
class _Places:
    """Finds the tensors of a foreign graph in the master."""

    foreign: onnx.ModelProto
    there: Likeness
    master: onnx.ModelProto
    here: Likeness
    ranges: Ranges

    def __post_init__(self) -> None:
        """Sort the tensors of both graphs by place."""
        object.__setattr__(self, "_there", self.there.places(self.there.tensors))
        object.__setattr__(self, "_here", self.here.places(filter(self.ranges.is_activation, self.here.tensors)))

    def find(self, tensor: str) -> str | None:
        """The master's tensor, or None."""
        place = self.there.tensors.get(tensor)
        if tensor in self.here.tensors and place == self.here.tensors[tensor]:
            return tensor
        here: Sequence[str] = self._here.get(place, ())  # type: ignore[attr-defined]
        there: Sequence[str] = self._there.get(place, ())  # type: ignore[attr-defined]
        if len(here) == 1:
            return here[0]
        if here and len(here) == len(there):
            return here[there.index(tensor)]
        return None


def _check_weights(
    foreign: onnx.ModelProto, there: Likeness, master: onnx.ModelProto, here: Likeness, ranges: Ranges, name: str
) -> int:
    """Refuse a graph of other weights; returns how many layers were compared."""
    checked = 0
    constants, made_by, mine = Constants(foreign), producers(foreign.graph), Constants(master)
    nodes = {label(node): node for node in foreign.graph.node}
    places: dict[str, list[str]] = {}
    for node, place in there.nodes.items():
        places.setdefault(place, []).append(node)
    for node in ranges.nodes:
        found = places.get(here.nodes.get(label(node), ""), [])
        if not ranges.is_weighted(node) or not found:
            continue
        same = label(node) if label(node) in found else found[0]
        found.remove(same)
        other = nodes[same]
        weight = float_weight(other.input[1], constants, made_by)
        own = mine.values(node.input[1])
        axis = weight_axis(node, own.ndim)
        if weight is not None and weight.ndim == 2 and weight_axis(other, 2) != axis:
            weight = weight.T
        if weight is not None and not alike(own, weight, axis):
            raise TableError(
                f"the weights of '{label(other)}' in {name} aren't those of '{label(node)}' in the master graph",
                "give the graph that was quantised from this master graph, without equalisation",
            )
        checked += weight is not None
    return checked


def _nothing(foreign: onnx.ModelProto, dynamic: Sequence[str], name: str) -> TableError:
    operators = {node.op_type for node in foreign.graph.node}
    if dynamic or "DynamicQuantizeLinear" in operators:
        return TableError(f"{name} computes its scales at run time: it holds no ranges", _CALIBRATE)
    if operators & UNSUPPORTED:
        return TableError(
            f"{name} holds quantised operators in place of Q/DQ nodes", "write it with Q/DQ nodes (QuantFormat.QDQ)"
        )
    return TableError(f"{name} quantises no activation: it holds no ranges", _CALIBRATE)


def _writer(model: onnx.ModelProto) -> str:
    return f"{model.producer_name} {model.producer_version}".strip() or "an unknown tool"


def match_names(table: CalibrationTable, master: onnx.ModelProto, *, name: str = "the table") -> CalibrationTable:
    """The ranges of a master's tensors from a table that names any tensors of it, such as a TensorRT cache does.

    Of the tensors that share one range the widest serves. What the master doesn't want is left out.

    Args:
        table: ranges by the names of tensors.
        master: the FP32 master graph.
        name: what errors call the table.

    Raises:
        TableError: a tensor that a convolution or matrix product reads is missing; it is named.
        GraphError: ``master`` is quantised already, or its types contradict each other.
    """
    refuse_typed(master)
    ranges = Ranges(master)
    taken = {
        group.name: [Found(member, found.minimum, found.maximum, onnx.TensorProto.INT8) for member, found in members]
        for group in ranges.wanted().values()
        if (members := [(member, table.ranges[member]) for member in group.members if member in table.ranges])
    }
    kept = table_ranges(ranges, taken)
    bare = set(without_range(ranges, kept))
    missing = [
        tensor
        for node in ranges.nodes
        if label(node) in bare
        for tensor in node.input
        if ranges.is_activation(tensor) and ranges.root(tensor) not in kept
    ]
    if missing:
        missing = list(dict.fromkeys(missing))
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise TableError(
            f"{name} has no range for tensor '{missing[0]}'{more} of the graph",
            "give the one of this graph: tensors must have the same names",
        )
    metadata = read_metadata(master)
    moved = replace(
        table,
        ranges=kept,
        weights=weights_digest(master),
        preprocess=metadata.preprocess_digest if metadata else None,
    )
    return sign(moved, master)
