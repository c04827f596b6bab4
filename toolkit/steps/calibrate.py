"""Measure the ranges of a graph's tensors on training images."""

import hashlib
import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import DataError, InputError
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.building.ranges import made_from, table_path
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from calibration.collect import TappedGraph
    from calibration.feeds import Batch, TensorBatch
    from calibration.table import CalibrationTable
    from engines.preprocess import Preprocess
    from export.light import SplitGraph
    from toolkit.data.dataset import Dataset, Split
    from toolkit.data.tensors import TensorDataset, TensorSplit


def calibrate(
    graph: str | PathLike[str],
    data: "str | PathLike[str] | Dataset | TensorDataset",
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
        data: a data set, or what ``toolkit.data.open_dataset`` takes; of a network that takes tensors an ``.npz``
            (:func:`toolkit.data.tensors.open_tensors`). Its train split is used, never the test split.
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
    from export.graph import read_metadata, require_metadata
    from export.light import load_light
    from toolkit.data import choose, open_dataset
    from toolkit.data.tensors import TensorDataset, choose_samples, open_tensors
    from toolkit.steps.calibration_cache import check_cache, write_table

    settings = Settings(method, precision, equalise, weight_clip, correct_biases, threads, device)
    settings.check()
    if images < 1 or batch_size < 1:
        raise InputError(f"{images} images in batches of {batch_size}", "give 1 or more of each")
    if cache is not None:
        check_cache(Path(cache), precision, force=force)
    path = Path(graph)
    master = load_light(path) if loaded is None else loaded
    metadata = require_metadata(read_metadata(master.model), path)
    dataset: Dataset | TensorDataset
    if metadata.pictures is None:
        dataset = open_tensors(data, metadata)
    else:
        dataset = open_dataset(_no_tensors(data), progress=progress)
    tapped = TappedGraph(path, loaded=master, threads=threads, device=device)
    target = Path(output) if output is not None else table_path(path, precision)
    check_replace(target, tapped.weights, made_from, force=force)
    samples: _Images | _Tensors
    if isinstance(dataset, TensorDataset):
        chosen = choose_samples(dataset.train, images, seed)
        samples = _Tensors(dataset.train, chosen, batch_size)
    else:
        chosen = choose(dataset.train, images, seed)
        samples = _Images(dataset.train, metadata.preprocess, chosen, batch_size, uint8=metadata.uint8_input)
    partial = Partial(target.with_name(f"{target.name}.partial"), _key(dataset.name, samples, tapped, settings))
    if not resume:
        partial.discard()
    samples.fingerprints = partial.notes
    try:
        table = calibrate_graph(master, tapped, samples, len(chosen), settings, partial=partial, progress=progress)
    except KeyboardInterrupt as error:
        if partial.path.exists():
            error.add_note(f"{partial.images} images are counted, and the same command goes on from there")
        raise
    table = replace(
        table,
        data=data_digest(samples.fingerprints),
        seen=pack(samples.fingerprints),
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


class _Tensors:
    """The chosen samples of a network that takes tensors, likewise.

    Attributes:
        fingerprints: as of :class:`_Images`.
    """

    def __init__(self, split: "TensorSplit", chosen: "NDArray[np.int64]", batch_size: int) -> None:
        self._split, self._chosen, self._batch_size = split, chosen, batch_size
        self.fingerprints: list[str] = []

    def __call__(self, start: int, stop: int) -> "Iterator[TensorBatch]":
        """The batches of the samples from ``start`` to ``stop``."""
        from calibration.feeds import TensorBatch
        from calibration.provenance import fingerprint

        position = start
        for feeds in self._split.batches(self._batch_size, self._chosen[start:stop]):
            batch = TensorBatch(feeds)
            known = max(len(self.fingerprints) - position, 0)
            self.fingerprints.extend(
                fingerprint(*(array[row] for array in feeds.values())) for row in range(known, len(batch))
            )
            position += len(batch)
            yield batch


def _no_tensors(data: "str | PathLike[str] | Dataset | TensorDataset") -> "str | PathLike[str] | Dataset":
    from toolkit.data.tensors import TensorDataset

    if isinstance(data, TensorDataset):
        raise DataError(f"'{data.name}' holds tensors, but the network takes pictures", "give pictures")
    return data


def _key(name: str, samples: "_Images | _Tensors", tapped: "TappedGraph", settings: Any) -> str:
    """What has to be equal for an interrupted run to be gone on with."""
    from calibration.feeds import arrays_of

    batches: Iterator[Batch] = iter(samples(0, 1))
    one = next(batches)
    first = hashlib.sha256()
    for array in arrays_of(one):
        first.update(array.tobytes())
    parts = [
        tapped.weights,
        name,
        hashlib.sha256(samples._chosen.tobytes()).hexdigest(),
        first.hexdigest(),
        vars(settings),
    ]
    samples.fingerprints.clear()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _facts(dataset: "Dataset | TensorDataset", chosen: "NDArray[np.int64]", seed: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"data": dataset.name, "split": "train", "seed": seed}
    labels = dataset.train.labels
    if labels is None or not dataset.labels:
        return facts
    seen = set(np.unique(labels[chosen]).tolist())
    facts["classes"] = f"{len(seen)} of {len(dataset.labels)}"
    unseen = [name for number, name in enumerate(dataset.labels) if number not in seen]
    return {**facts, "unseen_classes": unseen} if unseen else facts
