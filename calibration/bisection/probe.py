"""One graph that computes the second graph in several ways at once: as it is, layer by layer, and as it should be.

Each way is a copy of the nodes that depend on the input; constants are shared, and what two ways compute alike is
computed once.

- ``run``: the graph as written, from its own input.
- ``own``: every layer fed with the reference's values, cast to the type that the graph has there.
- ``ideal``: as ``own``, with the reference's weights in the graph's types and scales.
- ``floor``: as ``ideal``, with activations rounded as finely as in the graph but not clipped, and not much more
  coarsely than the values need (:mod:`calibration.bisection.unlimited`): what the types cost, not what ranges cost.
- ``types``: as ``floor``, from the graph's own input: what the types cost at the logits.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from calibration.bisection.constants import Place
from calibration.bisection.light import LightGraph
from calibration.bisection.marking import drop_unread_inputs
from calibration.bisection.sides import Pairs, Side
from calibration.bisection.unlimited import Canvas, unlimited
from export.onnxlib import onnx
from export.structure import remove_unused, topological_sort


@dataclass(frozen=True)
class Way:
    """One way to compute the second graph.

    Attributes:
        name: what its tensors begin with.
        cut: whether each layer reads the reference's values.
        grounded: whether it has the reference's constants.
        unlimited: whether activations are rounded without limits.
    """

    name: str
    cut: bool = False
    grounded: bool = False
    unlimited: bool = False


RUN = Way("run")
OWN = Way("own", cut=True)
IDEAL = Way("ideal", cut=True, grounded=True)
FLOOR = Way("floor", cut=True, grounded=True, unlimited=True)
TYPES = Way("types", grounded=True, unlimited=True)

WIDE = "wide/"
"""What the names of nodes begin with that are as in the reference."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Builds graphs that compute the second one.

    Attributes:
        first: the reference, equalised as the second is.
        second: the graph that is judged.
        pairs: what belongs together.
        constants: the reference's, by the input of the second graph that they belong to.
    """

    first: Side
    second: Side
    pairs: Pairs
    constants: Mapping[Place, NDArray[Any]]

    def fed(self, tensor: str) -> str:
        """The input that takes the reference's values of a tensor of the second graph."""
        return f"fed/{tensor}"

    def measured(self, way: Way, tensor: str) -> str:
        """The float32 output with what ``tensor`` holds in one way."""
        return f"{way.name}/{tensor}/out"

    def graph(self, ways: Collection[Way]) -> LightGraph:
        """A graph with some ways, which gives every matched tensor; of ``types`` the logits only.

        Args:
            ways: which.

        Returns:
            A graph whose inputs are the second graph's own and, for ways that are cut, :meth:`fed`.
        """
        return _Build(self).graph(ways)

    def mended(self, wide: Collection[str]) -> LightGraph:
        """``run`` with the reference's float layers in place of its own; it gives the logits.

        Args:
            wide: the results of those layers, tensors of the second graph.
        """
        return _Build(self, wide).graph([RUN], logits_only=True)


class _Build:
    """The work on one graph."""

    def __init__(self, probe: Probe, wide: Collection[str] = ()) -> None:
        self._probe, self._wide = probe, frozenset(wide)
        self._first, self._second = probe.first, probe.second
        self._pairs = probe.pairs.tensors
        self._canvas = Canvas(self._second)
        self._graph = self._canvas.graph
        self._given: dict[Place, str] = {}
        self._borrowed: set[str] = set()
        self._known: dict[tuple[object, ...], list[str]] = {}
        self._instead: dict[str, str] = {}
        self._outputs: dict[str, str] = {}
        self._same: dict[str, str] = {}

    def graph(self, ways: Collection[Way], *, logits_only: bool = False) -> LightGraph:
        second = self._second
        for value in second.model.graph.input:
            if value.name == second.input:
                self._graph.input.add().CopyFrom(value)
        if any(way.cut for way in ways):
            for tensor in self._pairs:
                self._feed(tensor)
        for node in second.nodes:
            if not second.computed.intersection(node.output):
                self._graph.node.add().CopyFrom(node)
        for way in ways:
            for node in second.nodes:
                if second.computed.intersection(node.output):
                    self._add(node, way)
            everything = not logits_only and way is not TYPES
            for tensor in dict.fromkeys((*(self._pairs if everything else ()), second.output)):
                self._output(way, tensor)
        for tensor in sorted(self._wide):
            self._borrow(tensor)
        topological_sort(self._graph)
        remove_unused(self._graph)
        drop_unread_inputs(self._graph)
        return LightGraph(self._canvas.model, self._canvas.arrays, self._same)

    def _feed(self, tensor: str) -> None:
        name, specs = self._probe.fed(tensor), self._second.specs
        batch = specs[self._second.input].shape[:1]
        sizes = [f"{name}.{axis}" if isinstance(size, str) else size for axis, size in enumerate(specs[tensor].shape)]
        if sizes and batch and all(isinstance(size, int) for size in sizes[1:]):
            sizes[0] = batch[0]  # inference may lose the batch's name on the way
        self._graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes or None))
        self._canvas.cast(name, f"{name}/typed", self._second.dtype(tensor))

    def _add(self, node: onnx.NodeProto, way: Way) -> None:
        """The copy of a node in one way."""
        second = self._second
        limits = node.output[0] not in self._pairs  # else the range stands for a ReLU of the first graph
        if way.unlimited and limits and node.op_type == "DequantizeLinear" and node.input[0] in second.made_by:
            source = self._read(second.made_by[node.input[0]].input[0], way)
            if unlimited(self._canvas, second, node, source, self._made(node.output[0], way)):
                return
        copy = self._canvas.copy(node, f"{way.name}/{node.name or node.output[0]}")
        for position, name in enumerate(node.input):
            place = (node.output[0], position)
            if way.grounded and place in self._probe.constants:
                copy.input[position] = self._constant(place)
            else:
                copy.input[position] = self._read(name, way)
        for position, name in enumerate(node.output):
            copy.output[position] = self._made(name, way) if name else ""
        if way.grounded and (other := self._partner(node)) is not None:
            del copy.attribute[:]
            copy.attribute.extend(other.attribute)
        if not self._wide:
            self._merge(copy)

    def _merge(self, node: onnx.NodeProto) -> None:
        """Drop the node just made where one of another way computes the same from the same."""
        attributes = sorted((item.name, item.SerializeToString()) for item in node.attribute)
        key = (node.domain, node.op_type, *node.input, len(node.output), *attributes)
        made = list(node.output)
        earlier = self._known.setdefault(key, made)
        if earlier is not made:
            self._instead.update(zip(made, earlier, strict=True))
            del self._graph.node[-1]

    def _made(self, tensor: str, way: Way) -> str:
        given = way is RUN and tensor in self._wide
        return f"{way.name}/{tensor}/narrow" if given else f"{way.name}/{tensor}"

    def _read(self, tensor: str, way: Way) -> str:
        """What a node reads in one way in place of ``tensor``."""
        if tensor not in self._second.computed or tensor == self._second.input:
            return tensor
        if way.cut and tensor in self._pairs:
            return f"{self._probe.fed(tensor)}/typed"
        return self._instead.get(f"{way.name}/{tensor}", f"{way.name}/{tensor}")

    def _partner(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The reference's node, where its attributes mean the same here: a wrong pad or a wrong alpha is no type."""
        name = self._pairs.get(node.output[0])
        matched = self._first.made_by[name] if name is not None else None
        other = self._probe.pairs.weighted.get(node.output[0], matched)
        if other is None or other.op_type != node.op_type or node.op_type in {"Gemm", "Cast"}:
            return None
        return other if {item.name for item in other.attribute} == {item.name for item in node.attribute} else None

    def _borrow(self, tensor: str) -> None:
        """The reference's layer in place of one of ``run``, between the second graph's own tensors."""
        first, prefix = self._first, f"{WIDE}{tensor}"
        partners = {there: here for here, there in self._pairs.items()}
        made: dict[str, str] = {}

        def name_of(name: str) -> str:
            if not name or name in made:
                return made.get(name, "")
            if name == first.input:
                made[name] = self._canvas.cast(self._second.input, f"{prefix}/{name}", first.dtype(name))
            elif name in partners and name != self._pairs[tensor]:
                made[name] = self._canvas.cast(self._read(partners[name], RUN), f"{prefix}/{name}", first.dtype(name))
            elif name in first.made_by:
                made[name] = f"{prefix}/{name}"
                copy = onnx.NodeProto()
                copy.CopyFrom(first.made_by[name])
                copy.name = made[name]
                copy.input[:] = [name_of(item) for item in copy.input]
                copy.output[:] = [made.setdefault(item, f"{prefix}/{item}") if item else "" for item in copy.output]
                self._graph.node.append(copy)
            else:
                made[name] = self._take(name)
            return made[name]

        self._canvas.cast(name_of(self._pairs[tensor]), f"run/{tensor}", self._second.dtype(tensor))

    def _take(self, constant: str) -> str:
        """A constant of the reference."""
        name = f"reference/{constant}"
        if name not in self._borrowed:
            self._borrowed.add(name)
            self._canvas.borrow(self._first, constant, name)
        return name

    def _output(self, way: Way, tensor: str) -> None:
        name = self._probe.measured(way, tensor)
        made = self._instead.get(f"{way.name}/{tensor}", f"{way.name}/{tensor}")
        if (known := self._outputs.setdefault(made, name)) != name:
            self._same[name] = known
            return
        self._canvas.cast(made, name, "float32")
        shape = self._second.specs[tensor].shape if tensor in self._second.specs else ()
        self._graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape or None))

    def _constant(self, place: Place) -> str:
        if place not in self._given:
            self._given[place] = self._canvas.constant(
                self._probe.constants[place], f"reference/{place[0]}/{place[1]}"
            )
        return self._given[place]
