"""Export a module and measure its ranges, all in memory."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.progress import QUIET, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import nn

    from calibration.table import CalibrationTable
    from engines.metadata import ModelMetadata
    from engines.preprocess import Preprocess
    from export.onnxlib import onnx
    from toolkit.data import Dataset, Split


@dataclass(frozen=True)
class Measured:
    """A module's graph and its table.

    Attributes:
        model: the FP32 master graph.
        table: its ranges, signed.
        images: what they were measured on.
        threads: CPU threads; None takes all cores.
    """

    model: "onnx.ModelProto"
    table: "CalibrationTable"
    images: "Images"
    threads: int | None

    def first(self, count: int) -> "NDArray[np.float32]":
        """The first images as the network takes them: float32 [N, C, H, W]."""
        return np.concatenate(list(self.images(0, count)))


class Images:
    """Chosen images of a split in batches for a graph.

    Attributes:
        fingerprints: of the images from the first on, as far as they were handed out.
    """

    def __init__(
        self, split: "Split", preprocess: "Preprocess", chosen: "NDArray[np.int64]", batch_size: int
    ) -> None:
        self._split, self._preprocess = split, preprocess
        self._chosen, self._batch_size = chosen, batch_size
        self.fingerprints: list[str] = []

    def __len__(self) -> int:
        return len(self._chosen)

    def __call__(self, start: int, stop: int) -> "Iterator[NDArray[np.float32]]":
        """The batches of the images from ``start`` to ``stop``: float32 [N, C, H, W]."""
        from calibration.provenance import fingerprint
        from toolkit.data import pixel_batches

        position = start
        chosen = self._chosen[start:stop]
        for pixels, _ in pixel_batches(self._split, self._preprocess, self._batch_size, indices=chosen):
            known = len(self.fingerprints) - position
            self.fingerprints.extend(fingerprint(image) for image in pixels[max(known, 0) :])
            position += len(pixels)
            yield self._preprocess.normalise(pixels)


def measure(
    module: "nn.Module",
    metadata: "ModelMetadata",
    dataset: "Dataset",
    images: int,
    seed: int,
    batch_size: int,
    threads: int | None,
    progress: Progress = QUIET,
) -> Measured:
    """Export ``module`` and choose the ranges of its tensors by method "auto", and nothing but ranges.

    Args:
        module: on the CPU.
        metadata: what travels with it.
        dataset: its train split is used.
        images, seed: how many images, and the seed of their choice.
        batch_size: images at a time.
        threads: CPU threads; None takes all cores.
        progress: told of every step.
    """
    from calibration.calibrator import Settings, calibrate_graph
    from calibration.collect import TappedGraph
    from calibration.provenance import data_digest, pack
    from export.light import SplitGraph
    from export.onnx_export import to_onnx
    from toolkit.data import choose

    model = to_onnx(module, replace(metadata, uint8_input=False), progress=progress)
    chosen = choose(dataset.train, images, seed)
    source = Images(dataset.train, metadata.preprocess, chosen, batch_size)
    settings = Settings("auto", equalise=False, weight_clip="max", correct_biases=False, threads=threads)
    master = SplitGraph(model)
    tapped = TappedGraph(master, threads=threads)
    table = calibrate_graph(master, tapped, source, len(source), settings, progress=progress)
    prints = source.fingerprints[: len(source)]
    facts = {**_facts(dataset, chosen, seed), **table.facts}
    return Measured(model, replace(table, data=data_digest(prints), seen=pack(prints), facts=facts), source, threads)


def _facts(dataset: "Dataset", chosen: "NDArray[np.int64]", seed: int) -> dict[str, Any]:
    seen = np.unique(dataset.train.labels[chosen])
    classes = f"{len(seen)} of {len(dataset.labels)}"
    return {"data": dataset.name, "split": "train", "seed": seed, "classes": classes}
