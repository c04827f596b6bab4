"""Measure the ranges of a graph's tensors on training images."""

import hashlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.table import SUFFIX
from engines.errors import GraphError, InputError, TableError
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.outputs import check_replace, sibling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from calibration.table import CalibrationTable
    from engines.preprocess import Preprocess
    from toolkit.data.dataset import Dataset, Split


def calibrate(
    graph: str | PathLike[str],
    data: "str | PathLike[str] | Dataset",
    *,
    method: str = "entropy",
    images: int = 512,
    seed: int = 0,
    output: str | PathLike[str] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> "CalibrationTable":
    """Run a master graph over training images and write the range of each tensor.

    Args:
        graph: the FP32 master graph, with its preprocessing inside.
        data: a data set, or what ``toolkit.data.open_dataset`` takes; its train split is used, never the test split.
        method: "entropy", "percentile", "mse" or "minmax".
        images: how many, chosen with each class in its proportion; all where the split has fewer.
        seed: of the choice.
        output: the table to write; None writes ``model.calibration.json`` beside ``model.onnx``.
        batch_size: images a run: more take more memory.
        threads: CPU threads; None takes all cores.
        force: replace an output that was made from another graph.
        progress: told of every batch.

    Returns:
        The table that was written.

    Raises:
        InputError: an option makes no sense, or the output exists and was made from something else.
        GraphError: the graph can't be used, carries no preprocessing, or is quantised already.
        DataError: the data can't be used.
    """
    require("onnx", "Calibrating", "onnxruntime")
    require("onnxruntime", "Calibrating", "onnxruntime")
    from calibration.collect import TappedGraph, collect
    from calibration.methods import METHODS
    from toolkit.data import choose, open_dataset
    from toolkit.data.dataset import Dataset

    if method not in METHODS:
        raise InputError(f"no calibration method '{method}'", f"methods are {', '.join(METHODS)}")
    if images < 1 or batch_size < 1 or (threads is not None and threads < 1):
        raise InputError(
            f"{images} images in batches of {batch_size} on {threads or 'all'} threads", "give 1 or more of each"
        )
    path = Path(graph)
    dataset = data if isinstance(data, Dataset) else open_dataset(_source(data), progress=progress)
    tapped = TappedGraph(path, threads=threads)
    metadata = tapped.metadata
    if metadata is None:
        raise GraphError(
            f"'{path}' doesn't say how its images are preprocessed",
            "export it with `toolkit export`, which stores that",
        )
    target = Path(output) if output is not None else sibling(path, SUFFIX)
    check_replace(target, tapped.weights, _made_from, force=force)
    chosen = choose(dataset.train, images, seed)
    pixels = _Pixels(dataset.train, metadata.preprocess, chosen, batch_size, uint8=metadata.uint8_input)
    statistics = collect(tapped, pixels, progress=progress, total=len(chosen))
    classes = np.unique(dataset.train.labels[chosen])
    facts: dict[str, Any] = {
        "data": dataset.name,
        "split": "train",
        "seed": seed,
        "classes": f"{len(classes)} of {len(dataset.labels)}",
    }
    table = statistics.table(method, data=pixels.digest, facts=facts)
    table.write(target)
    return table


class _Pixels:
    """Batches for the graph, and a digest of the pixels that went by."""

    def __init__(
        self, split: "Split", preprocess: "Preprocess", chosen: "NDArray[np.int64]", batch_size: int, *, uint8: bool
    ) -> None:
        self._split, self._preprocess, self._chosen = split, preprocess, chosen
        self._batch_size, self._uint8 = batch_size, uint8
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of the pixels seen so far: it depends on the images and their order, not on the size of batches."""
        return f"sha256:{self._hash.hexdigest()}"

    def __iter__(self) -> "Iterator[NDArray[Any]]":
        from toolkit.data import pixel_batches

        for pixels, _ in pixel_batches(self._split, self._preprocess, self._batch_size, indices=self._chosen):
            self._hash.update(pixels.tobytes())
            yield pixels if self._uint8 else self._preprocess.normalise(pixels)


def _source(data: str | PathLike[str]) -> str | Path:
    return data if isinstance(data, str) else Path(data)


def _made_from(path: Path) -> str | None:
    from calibration.table import CalibrationTable

    try:
        return CalibrationTable.read(path).weights
    except TableError:
        return None
