"""Run a graph over images and collect the distribution of its activations, in fixed memory.

The histograms of a batch are counted in as many threads as there are cores, while the source makes the next batch.
Counts are whole numbers: the result is the same whatever the number of threads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.counting import Counter
from calibration.feeds import Batch
from calibration.histogram import Histogram
from calibration.methods import default_method, find_method
from calibration.partial import Partial
from calibration.ranges import Group
from calibration.table import CalibrationTable, TensorRange
from calibration.taps import TappedGraph, channel_maxima
from engines.errors import DataError
from engines.progress import QUIET, Progress
from export.onnxlib import onnx

__all__ = ["Statistics", "TappedGraph", "channel_maxima", "collect"]


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
        self,
        method: str | None = None,
        *,
        data: str | None = None,
        facts: Mapping[str, Any] | None = None,
        precision: str = "int8",
    ) -> CalibrationTable:
        """Choose every range by ``method``.

        Args:
            method: a key of :func:`calibration.methods.methods_for`; the precision's default unless given.
            data: the digest of the pixels that were seen.
            facts: what else the table should tell.
            precision: what the ranges are for: "int8" or "fp8".

        Raises:
            InputError: the precision has no such method.
        """
        method = default_method(precision) if method is None else method
        choose = find_method(method, precision)
        ranges = {
            name: TensorRange(
                choose(histogram), histogram.minimum, histogram.maximum, self.groups[name].tap, histogram.total
            )
            for name, histogram in self.histograms.items()
        }
        return CalibrationTable(
            ranges, method, self.weights, data, self.preprocess, self.images, facts or {}, precision=precision
        )


def collect(
    model: onnx.ModelProto | TappedGraph | Path | str,
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    progress: Progress = QUIET,
    total: int | None = None,
    partial: Partial | None = None,
) -> Statistics:
    """Run a graph over ``batches`` and collect a histogram of every tensor that needs a range.

    Memory is bounded by the largest batch and about 260 kB a tensor, whatever the number of images. The next batch is
    asked for while the last one is counted.

    Args:
        model: the FP32 master graph, its path, or the graph as loaded already.
        batches: what the graph takes: float32 [N, C, H, W], uint8 [N, H, W, C] for a graph that normalises its
            own pixels, or :class:`calibration.feeds.TensorBatch`. They may differ in N, and are used one at a time.
        threads: of ONNX Runtime, and of the counting; all cores unless given.
        progress: told of every batch.
        total: how many images there will be, if that is known; those in ``partial`` are among them.
        partial: what an interrupted collection had counted: its first ``partial.images`` images must not come again.
            It is saved from time to time, and when anything ends the collection early. The batch that was being
            counted then counts in full, unless counting it was what failed: then the last save stays.

    Raises:
        DataError: there are no images.
        GraphError: the graph can't be run, or its activations become NaN or infinite.
        InputError: a batch doesn't fit the graph's input, or ``partial`` is of another graph or can't be saved.
    """
    graph = model if isinstance(model, TappedGraph) else TappedGraph(model, threads=threads)
    counter = Counter(graph.groups, partial, threads)
    progress.begin("calibrating", total, "images")
    try:
        with counter:
            if counter.images:
                progress.advance(counter.images)
            source = iter(batches)
            batch = next(source, None)
            while batch is not None:
                counter.start(graph.run(batch), batch)
                batch = next(source, None)
                progress.advance(counter.finish())
                if partial is not None and partial.due:
                    counter.save()
    finally:
        progress.end()
    if not counter.images:
        raise DataError("no images to calibrate with", "give data with at least one image")
    return Statistics(
        {name: histogram.freeze() for name, histogram in counter.histograms.items()},
        graph.groups,
        counter.images,
        graph.weights,
        graph.metadata.preprocess_digest if graph.metadata else None,
    )
