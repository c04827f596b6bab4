"""Measure the ranges of a graph's tensors on training images."""

import hashlib
import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import InputError
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.building.ranges import made_from, table_path
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from calibration.collect import TappedGraph
    from calibration.table import CalibrationTable
    from engines.preprocess import Preprocess
    from export.light import SplitGraph
    from toolkit.data.dataset import Dataset, Split


def calibrate(
    graph: str | PathLike[str],
    data: "str | PathLike[str] | Dataset",
    *,
    method: str = "auto",
    precision: str = "int8",
    images: int = 512,
    seed: int = 0,
    equalise: bool = True,
    weight_clip: str | None = None,
    correct_biases: bool | None = None,
    output: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    device: str = "cpu",
    resume: bool = True,
    force: bool = False,
    loaded: "SplitGraph | None" = None,
    progress: Progress = QUIET,
) -> "CalibrationTable":
    """Run a master graph over training images and write the range of each tensor.

    An interrupted run leaves ``<output>.partial``; the same call goes on from there, with the same result.

    Args:
        graph: the FP32 master graph, with its preprocessing inside.
        data: a data set, or what ``toolkit.data.open_dataset`` takes; its train split is used, never the test split.
        method: "entropy", "percentile", "mse" or "minmax"; "auto" measures them on images that it holds back.
        precision: "int8" or "fp8": what the ranges are for.
        images: how many, chosen with each class in its proportion; all where the split has fewer.
        seed: of the choice.
        equalise: even out channels by powers of two, where some are far above the others.
        weight_clip: "max" or "mse"; None lets "auto" measure both, and is "max" with the other methods.
        correct_biases: shift biases by the mean error of quantisation; None lets "auto" measure whether that helps.
        output: the table to write; None writes ``model.calibration.json`` beside ``model.onnx``
            (``model.fp8.calibration.json`` for FP8).
        cache: a TensorRT calibration cache (8 to 10) to write as well; INT8 only, and it can't tell equalisation.
        batch_size: images a run: more take more memory.
        threads: CPU threads; None takes all cores.
        device: "cpu", "cuda" or "auto": where activations are computed.
        resume: go on from an interrupted run.
        force: replace an output that was made from another graph.
        loaded: what the file ``graph`` holds, where the caller has loaded it; it isn't changed.
        progress: told of every batch.

    Returns:
        The table that was written.

    Raises:
        InputError: an option makes no sense, or the output exists and was made from something else.
        GraphError: the graph can't be used, carries no preprocessing, or is quantised already.
        DataError: the data can't be used.
        UnsupportedError: ``device`` isn't there.
        TableError: ``cache`` can't say the table; nothing is written.
    """
    require("onnx", "Calibrating", "onnxruntime")
    require("onnxruntime", "Calibrating", "onnxruntime")
    from calibration.calibrator import Settings, calibrate_graph
    from calibration.collect import TappedGraph
    from calibration.partial import Partial
    from calibration.provenance import data_digest, pack
    from export.graph import require_metadata
    from export.light import load_light
    from toolkit.data import choose, open_dataset
    from toolkit.steps.calibration_cache import check_cache, write_table

    settings = Settings(method, precision, equalise, weight_clip, correct_biases, threads, device)
    settings.check()
    if images < 1 or batch_size < 1:
        raise InputError(f"{images} images in batches of {batch_size}", "give 1 or more of each")
    if cache is not None:
        check_cache(Path(cache), precision, force=force)
    path = Path(graph)
    dataset = open_dataset(data, progress=progress)
    master = load_light(path) if loaded is None else loaded
    tapped = TappedGraph(path, loaded=master, threads=threads, device=device)
    metadata = require_metadata(tapped.metadata, path)
    target = Path(output) if output is not None else table_path(path, precision)
    check_replace(target, tapped.weights, made_from, force=force)
    chosen = choose(dataset.train, images, seed)
    pixels = _Images(dataset.train, metadata.preprocess, chosen, batch_size, uint8=metadata.uint8_input)
    partial = Partial(target.with_name(f"{target.name}.partial"), _key(dataset, pixels, tapped, settings))
    if not resume:
        partial.discard()
    pixels.fingerprints = partial.notes
    try:
        table = calibrate_graph(master, tapped, pixels, len(chosen), settings, partial=partial, progress=progress)
    except KeyboardInterrupt as error:
        if partial.path.exists():
            error.add_note(f"{partial.images} images are counted, and the same command goes on from there")
        raise
    table = replace(
        table,
        data=data_digest(pixels.fingerprints),
        seen=pack(pixels.fingerprints),
        facts={**_facts(dataset, chosen, seed), **table.facts},
    )
    write_table(table, target, path, Path(cache) if cache is not None else None)
    partial.discard()
    return table


class _Images:
    """The chosen images in batches for the graph, and the fingerprint of each that went by.

    Attributes:
        fingerprints: of the images from the first on, as far as they were handed out.
    """

    def __init__(
        self, split: "Split", preprocess: "Preprocess", chosen: "NDArray[np.int64]", batch_size: int, *, uint8: bool
    ) -> None:
        self._split, self._preprocess, self._chosen = split, preprocess, chosen
        self._batch_size, self._uint8 = batch_size, uint8
        self.fingerprints: list[str] = []

    def __call__(self, start: int, stop: int) -> "Iterator[NDArray[Any]]":
        """The batches of the images from ``start`` to ``stop``: float32 [N, C, H, W], or the uint8 pixels."""
        from calibration.provenance import fingerprint
        from toolkit.data import pixel_batches

        position = start
        for pixels, _ in pixel_batches(
            self._split, self._preprocess, self._batch_size, indices=self._chosen[start:stop]
        ):
            known = len(self.fingerprints) - position
            self.fingerprints.extend(fingerprint(image) for image in pixels[max(known, 0) :])
            position += len(pixels)
            yield pixels if self._uint8 else self._preprocess.normalise(pixels)


def _key(dataset: "Dataset", images: _Images, tapped: "TappedGraph", settings: Any) -> str:
    """What has to be equal for an interrupted run to be gone on with."""
    first = next(iter(images(0, 1)))
    parts = [
        tapped.weights,
        dataset.name,
        hashlib.sha256(images._chosen.tobytes()).hexdigest(),
        hashlib.sha256(first.tobytes()).hexdigest(),
        vars(settings),
    ]
    images.fingerprints.clear()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _facts(dataset: "Dataset", chosen: "NDArray[np.int64]", seed: int) -> dict[str, Any]:
    seen = set(np.unique(dataset.train.labels[chosen]).tolist())
    facts: dict[str, Any] = {
        "data": dataset.name,
        "split": "train",
        "seed": seed,
        "classes": f"{len(seen)} of {len(dataset.labels)}",
    }
    unseen = [name for number, name in enumerate(dataset.labels) if number not in seen]
    return {**facts, "unseen_classes": unseen} if unseen else facts
