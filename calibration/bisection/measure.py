"""The sums of every layer of the second graph, batch by batch, and what they say of it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bisection.constants import Gain
from calibration.bisection.judge import Measured
from calibration.bisection.mend import flat
from calibration.bisection.moments import Moments, moments, ratio_db, rows
from calibration.bisection.probe import FLOOR, IDEAL, OWN, RUN, TYPES, Probe
from calibration.bisection.record import BisectedLayer
from calibration.bisection.source import Backend, GraphSource, Runner, Source, opened, task
from calibration.likeness import PAIRS
from calibration.ranges import MOVES
from engines.errors import DataError, GraphError
from engines.progress import Progress
from engines.tensors import check_feeds
from export.graph import inputs, layer_types, module_of
from export.onnxlib import onnx
from export.structure import label

Batches = Iterable[NDArray[Any]]

_REAL, _SHOULD = (RUN, OWN), (IDEAL, FLOOR, TYPES)
"""What the second graph does, and what it should do: the latter ONNX Runtime tells, whoever runs the graph."""


class Measurement:
    """The sums of every layer while batches go through.

    Args:
        probe: makes the graphs.
        gains: what the layers' weights are multiplied by.
        folder: for the files that a backend needs.
        threads: of ONNX Runtime; all cores unless given.
        backend: what runs the second graph; None is ONNX Runtime, as written.

    Attributes:
        reference, found, typed: float32 [N, classes]: the logits of the first graph, of the second, and of what the
            types cost.
        marked: those of the backend's graph with marked tensors; with ONNX Runtime the same as ``found``.
    """

    def __init__(
        self,
        probe: Probe,
        gains: Mapping[str, Gain],
        folder: Path,
        threads: int | None,
        backend: Backend | None = None,
    ) -> None:
        self._probe, self._gains, self._folder = probe, gains, folder
        self._threads, self._backend = threads, backend
        self._pairs = probe.pairs.tensors
        self._sums = {tensor: [Moments() for _ in range(5)] for tensor in self._pairs}
        self._logits: list[tuple[NDArray[Any], ...]] = []

    def measure(self, batches: Batches, progress: Progress) -> None:
        """Go through the images: once, and once more for the logits of a backend.

        Raises:
            DataError: there are no images.
            GraphError: the backend gives other values than the second graph's.
            ToolkitError: something can't run its graph.
        """
        whole = self._whole(batches, progress) if self._backend is not None else None
        probe = self._probe
        reference: Source = GraphSource(probe.first, list(self._pairs.values()), self._threads)
        with ExitStack() as stack:
            parts = [(_REAL + _SHOULD, None)] if self._backend is None else [(_REAL, self._backend), (_SHOULD, None)]
            asks = []
            for number, (ways, backend) in enumerate(parts):
                graph = probe.graph(ways)
                fed = tuple(item.name for item in inputs(graph.model))
                given = tuple(item.name for item in graph.model.graph.output)
                folder = self._folder / str(number)
                folder.mkdir()
                runner = stack.enter_context(opened(graph, backend, folder, self._threads))
                asks.append(_Ask(runner, fed, given, graph.same))
                del graph
            with task(progress, "Comparing layers"):
                for batch in batches:
                    self._batch(batch, reference, asks)
                    progress.advance(len(batch))
        if not self._logits:
            raise DataError("no images to compare on", "give data with at least one image")
        self.reference, self.marked, self.typed = (np.concatenate(each) for each in zip(*self._logits, strict=True))
        self.found = self.marked if whole is None else whole
        if self.found.shape != self.reference.shape:
            raise GraphError(
                f"the first graph gives logits of shape {self.reference.shape}, the second {self.found.shape}",
                "give two graphs of one network",
            )

    def _whole(self, batches: Batches, progress: Progress) -> NDArray[Any] | None:
        """The logits of the second graph, or its engine, as it is in the backend."""
        second, found = self._probe.second, list[NDArray[Any]]()
        if self._backend is None:
            return None
        with self._backend.whole() as runner, task(progress, f"Running B in {self._backend.name}"):
            for batch in batches:
                found.append(flat(runner.run([second.output], {second.input: batch})[0].astype(np.float32)))
                progress.advance(len(batch))
        return np.concatenate(found) if found else None

    def _batch(self, batch: NDArray[Any], reference: Source, asks: "list[_Ask]") -> None:
        probe, output = self._probe, self._probe.second.output
        check_feeds(inputs(probe.first.model), {probe.first.input: batch})
        values = reference.values(batch)
        feeds = {probe.second.input: batch}
        feeds |= {probe.fed(there): values[here] for there, here in self._pairs.items()}
        found: dict[str, NDArray[Any]] = {}
        for ask in asks:
            found |= ask(feeds)
        for tensor, here in self._pairs.items():
            self._add(tensor, values[here], [found[probe.measured(way, tensor)] for way in (RUN, OWN, IDEAL, FLOOR)])
        ends = (found[probe.measured(way, output)] for way in (RUN, TYPES))
        self._logits.append(tuple(flat(item) for item in (values[probe.first.output], *ends)))

    def _add(self, tensor: str, reference: NDArray[Any], found: list[NDArray[Any]]) -> None:
        """Add one batch of a tensor; of what several ways share the sums are made once."""
        made = {id(item): rows(item) for item in {id(item): item for item in (reference, *found)}.values()}
        expected, *each = (made[id(item)] for item in (reference, *found))
        _, own, ideal, _ = each
        known: dict[tuple[int, int], Any] = {}
        for sums, (before, after) in zip(
            self._sums[tensor], [*((expected, item) for item in each), (ideal, own)], strict=True
        ):
            key = id(before), id(after)
            if key not in known:
                known[key] = moments(before, after)
            sums.add(known[key], before.shape[1])

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
        second, backend = self._probe.second, self._backend
        types = {item.name: item.type for item in layer_types(second.model)}
        products = {node.output[0] for node in second.weighted()}
        for tensor, here in self._pairs.items():
            run, own, ideal, floor, beside = self._sums[tensor]
            steps = self._steps(tensor)
            quantised = any(node.op_type in PAIRS for node in steps)
            weighted = [node for node in steps if node.output[0] in products]
            exact = all(item.output[0] in self._gains for item in weighted)
            if exact:  # a layer of several is called after the one that looks most wrong
                weighted.sort(key=lambda item: -abs(self._gains[item.output[0]].factor - 1))
            dtype = second.dtype(tensor)
            gain = self._gains[weighted[0].output[0]] if exact and weighted else None
            rounded = "float16" if backend is not None and backend.tf32 and dtype == "float32" else dtype
            elsewhere = backend is not None
            measured = Measured(own, ideal, floor, beside, rounded, quantised, exact, gain, elsewhere)
            over, reason = measured.judge()
            node, *others = self._named(here, weighted)
            if over and others:
                reason += f" (one layer with {', '.join(map(label, others))} here)"
            shown = next((types[label(item)] for item in weighted if quantised and label(item) in types), dtype)
            yield BisectedLayer(
                label(node), module_of(node), node.op_type, shown,
                run.decibels(), own.decibels(), ratio_db(own.signal, measured.allowed()),
                measured.told_gain() if over else 1.0, exact, over, reason, tensor, tuple(map(label, others)),
            )  # fmt: skip

    def _named(self, tensor: str, weighted: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes of the first graph that a layer is called after: its convolutions and products if it has some."""
        partners = self._probe.pairs.weighted
        known = [partners[node.output[0]] for node in weighted if node.output[0] in partners]
        return known or [self._probe.first.made_by[tensor]]

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


class _Ask:
    """One opened graph with the names of what it reads and gives."""

    def __init__(self, runner: Runner, fed: tuple[str, ...], given: tuple[str, ...], same: Mapping[str, str]) -> None:
        self._runner, self._fed, self._given, self._same = runner, fed, given, same

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        values = self._runner.run(self._given, {name: feeds[name] for name in self._fed})
        found = dict(zip(self._given, values, strict=True))
        return found | {name: found[other] for name, other in self._same.items()}
