"""Run a graph over images and collect the distribution of its activations, in fixed memory."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calibration.histogram import GrowingHistogram, Histogram
from calibration.methods import DEFAULT_METHOD, METHODS
from calibration.ranges import Group, Ranges, refuse_typed
from calibration.table import CalibrationTable, TensorRange
from engines.errors import DataError, GraphError, InputError, RunError
from engines.optional import require
from engines.progress import QUIET, Progress
from engines.tensors import check_feeds
from export.graph import inputs, load_graph, read_metadata, save_graph, weights_digest
from export.onnxlib import onnx
from export.structure import remove_unused


@dataclass(frozen=True)
class Statistics:
    """What was collected: enough for every method, without running the graph again.

    Attributes:
        histograms: by group name.
        groups: the tensors behind each name.
        images: how many were seen.
        weights: the digest of the graph's weights.
        preprocess: the digest of the preprocessing in the graph's metadata; None without one.
    """

    histograms: Mapping[str, Histogram]
    groups: Mapping[str, Group]
    images: int
    weights: str
    preprocess: str | None = None

    def table(
        self, method: str = DEFAULT_METHOD, *, data: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> CalibrationTable:
        """Choose every range by ``method``.

        Args:
            method: a key of :data:`calibration.methods.METHODS`.
            data: the digest of the pixels that were seen.
            facts: what else the table should tell.

        Raises:
            InputError: an unknown method.
        """
        if method not in METHODS:
            raise InputError(f"no calibration method '{method}'", f"methods are {', '.join(METHODS)}")
        choose = METHODS[method]
        ranges = {
            name: TensorRange(
                choose(histogram), histogram.minimum, histogram.maximum, self.groups[name].tap, histogram.total
            )
            for name, histogram in self.histograms.items()
        }
        return CalibrationTable(ranges, method, self.weights, data, self.preprocess, self.images, facts or {})


class TappedGraph:
    """A graph loaded into ONNX Runtime with the tensors to be measured as its outputs.

    It goes through a temporary file: loaded by path, ONNX Runtime holds the weights once, from memory twice.

    Args:
        graph: the FP32 master graph. Given by its path, its weights are in memory once; a loaded one is held by
            the caller too.
        threads: of ONNX Runtime; all cores unless given.

    Attributes:
        inputs: the graph's only input.
        groups: the tensors to be measured, by name.
        weights: the digest of the graph's weights.
        metadata: what travels with the model; None in a foreign graph.

    Raises:
        InputError: the file can't be read.
        GraphError: the graph can't be run, is quantised already, has several inputs, or nothing to calibrate.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    def __init__(self, graph: onnx.ModelProto | Path | str, *, threads: int | None = None) -> None:
        runtime = require("onnxruntime", "Calibrating", "onnxruntime")
        loaded = isinstance(graph, Path | str)
        model = load_graph(graph) if isinstance(graph, Path | str) else graph
        name = f"'{graph}'" if loaded else "the graph"
        self.inputs = inputs(model)
        if len(self.inputs) != 1:
            raise GraphError(
                f"{name} has {len(self.inputs)} inputs; calibration takes graphs with one", "export the model again"
            )
        refuse_typed(model, name)
        self.groups = Ranges(model).wanted()
        if not self.groups:
            raise GraphError(f"{name} has no convolution or matrix product to calibrate", "give a classifier's graph")
        self.metadata = read_metadata(model)
        self.weights = weights_digest(model)
        taps = dict.fromkeys(group.tap for group in self.groups.values())
        self._outputs = [tap for tap in taps if tap != self.inputs[0].name]
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
            path = Path(folder) / "tapped.onnx"
            model = model if loaded else _copy(model)
            _give(model, self._outputs)
            save_graph(model, path)
            del model, graph  # before ONNX Runtime loads the weights again
            try:
                self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # the runtime's own classes share no base but Exception
                raise GraphError(
                    f"ONNX Runtime can't run {name}: {error}", "check it with `toolkit verify`"
                ) from error

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the measured tensors hold for one batch, by group name.

        Raises:
            InputError: the batch doesn't fit the graph's input.
            RunError: ONNX Runtime failed.
        """
        feeds = {self.inputs[0].name: batch}
        check_feeds(self.inputs, feeds)
        try:
            found = dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True)) | feeds
        except Exception as error:  # as above
            raise RunError(f"the graph failed on a batch: {error}", "check it with `toolkit verify`") from error
        return {name: found[group.tap] for name, group in self.groups.items()}


def collect(
    model: onnx.ModelProto | TappedGraph | Path | str,
    batches: Iterable[NDArray[Any]],
    *,
    threads: int | None = None,
    progress: Progress = QUIET,
    total: int | None = None,
) -> Statistics:
    """Run a graph over ``batches`` and collect a histogram of every tensor that needs a range.

    Memory is bounded by the largest batch and about 260 kB a tensor, whatever the number of images.

    Args:
        model: the FP32 master graph, its path, or the graph as loaded already.
        batches: what the graph takes: float32 [N, C, H, W], or uint8 [N, H, W, C] for a graph that
            normalises its own pixels. They may differ in N, and are used one at a time.
        threads: of ONNX Runtime; all cores unless given.
        progress: told of every batch.
        total: how many images there will be, if that is known.

    Raises:
        DataError: there are no images.
        GraphError: the graph can't be run, or its activations become NaN or infinite.
        InputError: a batch doesn't fit the graph's input.
    """
    graph = model if isinstance(model, TappedGraph) else TappedGraph(model, threads=threads)
    histograms = {name: GrowingHistogram() for name in graph.groups}
    images = 0
    progress.begin("calibrating", total, "images")
    try:
        for batch in batches:
            for name, values in graph.run(batch).items():
                histograms[name].add(values, name)
            images += len(batch)
            progress.advance(len(batch))
    finally:
        progress.end()
    if not images:
        raise DataError("no images to calibrate with", "give data with at least one image")
    return Statistics(
        {name: histogram.freeze() for name, histogram in histograms.items()},
        graph.groups,
        images,
        graph.weights,
        graph.metadata.preprocess.digest() if graph.metadata else None,
    )


def _give(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Replace the outputs of ``model``, and drop what the new ones don't need."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    remove_unused(model.graph)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
