"""Where two graphs of one network part, layer by layer: a typed graph against its master, or two exports.

Both run in ONNX Runtime as written. For each operator that both have, two errors are measured in the second graph:
the one that it has with all that went wrong before it, and the one that it adds by itself, fed with the first graph's
values. The latter is judged against a floor that is measured for this layer: the first graph's weights and inputs in
the second's own types and scales (:mod:`calibration.bisection.judge`). Where channels were equalised
(:mod:`calibration.equalise`), the first graph is equalised alike before.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.as_written import AsWritten
from calibration.bisection.constants import Gain, grounded
from calibration.bisection.equalised import equalised
from calibration.bisection.judge import Measured
from calibration.bisection.mend import Mender, flat, reach
from calibration.bisection.moments import Moments, ratio_db
from calibration.bisection.probe import FLOOR, IDEAL, OWN, RUN, TYPES, Probe
from calibration.bisection.record import BisectedLayer, Bisection, Mending
from calibration.bisection.sides import Pairs, Side, pair, same_opset
from calibration.bisection.source import FEATURE, GraphSource, Source
from calibration.figures import figures
from calibration.likeness import PAIRS
from calibration.ranges import MOVES
from calibration.sensitivity import refuse_iterator
from engines.errors import DataError, UnsupportedError
from engines.progress import QUIET, Progress
from engines.tensors import check_feeds
from export.graph import inputs, layer_types, load_graph, save_graph
from export.onnxlib import onnx
from export.passes.module_names import module_of
from export.structure import label

Model = onnx.ModelProto | Path | str
Batches = Iterable[NDArray[Any]]


def bisect(
    first: Model,
    second: Model,
    batches: Batches,
    *,
    mend: bool = True,
    threads: int | None = None,
    progress: Progress = QUIET,
) -> Bisection:
    """Find the first layer of ``second`` whose own error is over the noise floor, and what mends the logits.

    Memory is that of the weights of both graphs, twice, and of one batch's activations, five times.

    Args:
        first: the reference, a graph or its path; mostly the FP32 master.
        second: the graph to judge: a typed graph, or another export of the network.
        batches: what both graphs take, float32 [N, C, H, W] or uint8 [N, H, W, C]. They are gone through once, and
            once more for every set of layers that is tried: give a list, or what can be iterated again and again.
        mend: whether to look for the layers to keep wide, where there is something to mend.
        threads: of ONNX Runtime; all cores unless given.
        progress: told of every image of every pass.

    Raises:
        DataError: there are no images.
        GraphError: a graph can't be run, has several inputs, or they aren't of one network.
        InputError: ``batches`` can be iterated only once, or doesn't fit.
        RunError: ONNX Runtime failed.
        UnsupportedError: the second graph computes in BF16, for which ONNX Runtime has no kernels on the CPU.
        MissingLibraryError: ONNX Runtime isn't installed.
    """
    refuse_iterator(batches)
    first_side, second_side, pairs, is_equalised = _prepare(_own(first), _own(second), _name(first), _name(second))
    grounds = grounded(first_side, second_side, pairs)
    probe = Probe(first_side, second_side, pairs, grounds.values)
    with tempfile.TemporaryDirectory(prefix="bisect-") as name:
        folder = Path(name)
        work = _Work(probe, grounds.gains, folder, threads)
        progress.begin("Comparing layers", None, "images")
        try:
            work.measure(batches, progress)
        finally:
            progress.end()
        layers = work.layers()
        logits, types = figures(work.reference, work.found), figures(work.reference, work.typed)
        over = any(layer.over for layer in layers)
        target = reach(types, over=over)
        mending: Mending | None = None
        if mend and (over or logits.sqnr_db < target):
            progress.begin("Finding the layers to keep wide", None, "images")
            try:
                mender = Mender(probe, batches, work.reference, folder, progress, threads)
                mending = mender.mend(layers, target)
            finally:
                progress.end()
    unmatched = tuple(
        label(node)
        for node in probe.second.weighted()
        if node.output[0] not in probe.pairs.tensors and node.output[0] not in probe.pairs.weighted
    )
    return Bisection(layers, logits, types, target, mending, unmatched, is_equalised, len(work.reference))


def _prepare(
    first: onnx.ModelProto, second: onnx.ModelProto, name: str, other: str
) -> tuple[Side, Side, Pairs, bool]:
    """Both graphs read and paired, the first equalised as the second is."""
    same_opset(first, second)
    here, there = Side(first, name), Side(second, other)
    for side in (here, there):
        if any(side.dtype(tensor) == "bfloat16" for tensor in side.results()):
            raise UnsupportedError(
                f"{side.name} computes in BF16, for which ONNX Runtime has no kernels on the CPU",
                "bisect the FP16 graph: both are typed in the same places",
            )
    pairs = pair(here, there)
    if any(node.op_type in PAIRS for node in there.nodes) and (scaled := equalised(here, there, pairs)) is not None:
        here = Side(scaled, name)
        weighted = {key: here.made_by[node.output[0]] for key, node in pairs.weighted.items()}
        return here, there, Pairs(pairs.tensors, weighted), True
    return here, there, pairs, False


class _Work:
    """The sums of every layer while batches go through.

    Attributes:
        reference, found, typed: float32 [N, classes]: the logits of the first graph, of the second, and of what the
            types cost.
    """

    def __init__(self, probe: Probe, gains: Mapping[str, Gain], folder: Path, threads: int | None) -> None:
        self._probe, self._gains = probe, gains
        self._pairs = probe.pairs.tensors
        self._source: Source = GraphSource(probe.first, list(self._pairs.values()), folder, threads)
        path = folder / "probe.onnx"
        model = probe.graph([RUN, OWN, IDEAL, FLOOR, TYPES])
        self._fed = {value.name for value in inputs(model)}
        self._ways = (RUN, OWN, IDEAL, FLOOR)
        save_graph(model, path)
        del model
        self._session = AsWritten(path, FEATURE, threads)
        self._sums = {tensor: [Moments() for _ in range(5)] for tensor in self._pairs}
        self._logits: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def measure(self, batches: Batches, progress: Progress) -> None:
        """Go through the images once."""
        probe, output = self._probe, self._probe.second.output
        names = [probe.measured(way, tensor) for way in self._ways for tensor in self._pairs]
        ends = [probe.measured(way, output) for way in (RUN, TYPES)]
        wanted = list(dict.fromkeys([*names, *ends]))
        for batch in batches:
            feeds: dict[str, Any] = {probe.first.input: batch}
            check_feeds(inputs(probe.first.model), feeds)
            values = self._source.values(batch)
            feeds = {probe.second.input: batch}
            feeds |= {probe.fed(there): values[here] for there, here in self._pairs.items()}
            given = {name: item for name, item in feeds.items() if name in self._fed}
            found = dict(zip(wanted, self._session.run(wanted, given), strict=True))
            for tensor, here in self._pairs.items():
                self._add(tensor, values[here], *(found[probe.measured(way, tensor)] for way in self._ways))
            logits = values[probe.first.output], *(found[name] for name in ends)
            self._logits.append((flat(logits[0]), flat(logits[1]), flat(logits[2])))
            progress.advance(len(batch))
        if not self._logits:
            raise DataError("no images to compare on", "give data with at least one image")
        self.reference, self.found, self.typed = (np.concatenate(parts) for parts in zip(*self._logits, strict=True))

    def _add(self, tensor: str, reference: NDArray[Any], *found: NDArray[Any]) -> None:
        for sums, values in zip(self._sums[tensor], found, strict=False):
            sums.add(reference, values)
        _, own, ideal, _ = found
        self._sums[tensor][4].add(ideal, own)

    def layers(self) -> tuple[BisectedLayer, ...]:
        """What was found of each.

        A range that is at fault counts where it is read: what only moves values on isn't named beside its reader.
        """
        found = {layer.tensor: layer for layer in self._layers()}
        readers: dict[str, list[str]] = {}
        for tensor in found:
            for node in self._steps(tensor):
                for name in node.input:
                    readers.setdefault(name, []).append(tensor)
        for tensor, layer in reversed(found.items()):
            read = any(found[name].over for name in readers.get(tensor, []) if name in found)
            if layer.over and layer.op in MOVES and read:
                found[tensor] = replace(layer, over=False, gain=1.0)
        return tuple(found.values())

    def _layers(self) -> Iterator[BisectedLayer]:
        second = self._probe.second
        types = {item.name: item.type for item in layer_types(second.model)}
        products = {node.output[0] for node in second.weighted()}
        for tensor, here in self._pairs.items():
            run, own, ideal, floor, beside = self._sums[tensor]
            steps = self._steps(tensor)
            quantised = any(node.op_type in PAIRS for node in steps)
            weighted = [node for node in steps if node.output[0] in products]
            exact = all(item.output[0] in self._gains for item in weighted)
            weights = [self._gains[item.output[0]] for item in weighted] if exact else []
            dtype = second.dtype(tensor)
            gain = weights[0] if len(weights) == 1 else None
            measured = Measured(own, ideal, floor, beside, dtype, quantised, exact, gain)
            over, reason = measured.judge()
            node = self._named(here, weighted)
            shown = next((types[label(item)] for item in weighted if quantised and label(item) in types), dtype)
            yield BisectedLayer(
                label(node), module_of(node), node.op_type, shown,
                run.decibels(), own.decibels(), ratio_db(own.signal, measured.allowed()),
                measured.told_gain() if over else 1.0, exact, over, reason, tensor,
            )  # fmt: skip

    def _named(self, tensor: str, weighted: list[onnx.NodeProto]) -> onnx.NodeProto:
        """The node of the first graph that a layer is called after: its convolution or product if it has one."""
        partners = self._probe.pairs.weighted
        known = [partners[node.output[0]] for node in weighted if node.output[0] in partners]
        return known[0] if known else self._probe.first.made_by[tensor]

    def _steps(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes of the second graph between matched tensors and this one."""
        second = self._probe.second
        found, waiting, seen = list[onnx.NodeProto](), [tensor], {tensor}
        while waiting:
            node = second.made_by.get(waiting.pop())
            if node is None:
                continue
            found.append(node)
            for name in node.input:
                if name in second.computed and name not in self._pairs and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return found


def _own(model: Model) -> onnx.ModelProto:
    """A graph that may be changed."""
    if isinstance(model, Path | str):
        return load_graph(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _name(model: Model) -> str:
    return f"'{model}'" if isinstance(model, Path | str) else "the graph"
