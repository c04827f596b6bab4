"""The error that each layer's quantisation adds, measured with that layer alone quantised."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.feeds import Batch
from calibration.figures import Figures, finite
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from engines.errors import DataError, InputError
from engines.progress import QUIET, Progress
from export.onnxlib import onnx

FORMAT = "onnx-tensorrt-toolkit/sensitivity"
COLUMNS = ("node", "module", "operator", "SQNR dB", "flips", "KL")
"""What :meth:`Sensitivity.rows` holds."""

Model = onnx.ModelProto | Path | str | Simulation
"""An FP32 master graph, its path, or a simulation of it, which then has the table and the threads already."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The error of a graph in which one layer alone is quantised, against FP32.

    Attributes:
        node: its name in the graph: what ``keep`` takes.
        module: the path of the PyTorch module that it comes from; None in a foreign graph.
        op: its operator.
        sqnr_db: signal to quantisation noise of the class-centred logits in dB, each image counted once
            (:func:`calibration.figures.figures`); infinite where nothing differs.
        flips: images whose label changes.
        kl: the mean of KL(FP32 || quantised) of the probabilities, in nats.
        accuracy: the share of right labels, in [0, 1]; None without labels.
    """

    node: str
    module: str | None
    op: str
    sqnr_db: float
    flips: int
    kl: float
    accuracy: float | None = None

    @property
    def noise(self) -> float:
        """The power of its noise at the logits over that of the signal."""
        return float(np.power(10.0, -self.sqnr_db / 10.0))


@dataclass(frozen=True)
class Sensitivity:
    """What was measured.

    Attributes:
        layers: every layer that can be kept back, in graph order.
        images: how many were used.
        all_quantised: the same figures with every layer quantised.
        accuracy_fp32: of the FP32 graph, in [0, 1]; None without labels.
    """

    layers: tuple[LayerSensitivity, ...]
    images: int
    all_quantised: Figures
    accuracy_fp32: float | None = None

    def worst_first(self) -> tuple[LayerSensitivity, ...]:
        """The layers by the error that they add, the largest first; equal ones in graph order."""
        return tuple(sorted(self.layers, key=lambda layer: layer.sqnr_db))

    def rows(self) -> list[tuple[str, ...]]:
        """A table of text, :data:`COLUMNS`, the worst layer first and all of them together last."""
        found = [
            (layer.node, layer.module or "", layer.op, f"{layer.sqnr_db:.1f}", str(layer.flips), f"{layer.kl:.2g}")
            for layer in self.worst_first()
        ]
        all_of_them = self.all_quantised
        total = ("all quantised", "", "", f"{all_of_them.sqnr_db:.1f}", str(all_of_them.flips))
        return [*found, (*total, f"{all_of_them.kl:.2g}")]

    def to_json(self) -> dict[str, Any]:
        """An object of JSON; a figure that isn't finite is the text "inf" or "-inf"."""
        return {
            "format": FORMAT,
            "images": self.images,
            "accuracy_fp32": self.accuracy_fp32,
            "all_quantised": _plain(asdict(self.all_quantised)),
            "layers": [_plain(asdict(layer)) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: Any) -> "Sensitivity":
        """Read what :meth:`to_json` made.

        Raises:
            InputError: it isn't that.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError("this is not a record of sensitivities", "make one with `toolkit sensitivity`")
        try:
            layers = tuple(
                LayerSensitivity(str(item["node"]), item["module"], str(item["op"]), *_figures(item))
                for item in value["layers"]
            )
            total = value["all_quantised"]
            sqnr, flips, kl, accuracy = _figures(total)
            everything = Figures(sqnr, flips, kl, int(total["images"]), accuracy)
            return cls(layers, int(value["images"]), everything, _optional(value["accuracy_fp32"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the record of sensitivities is damaged: {error}", "measure again") from error


def sensitivity(
    model: Model,
    table: CalibrationTable | None,
    batches: Iterable[Batch],
    *,
    labels: ArrayLike | None = None,
    progress: Progress = QUIET,
    threads: int | None = None,
) -> Sensitivity:
    """Quantise each layer alone and compare the logits with those of FP32.

    Args:
        model: the FP32 master graph, its path, or a simulation of it (``table`` and ``threads`` then say nothing).
        table: its ranges. What it keeps back is no layer here, and stays unquantised.
        batches: what the graph takes. They are gone through once for every layer and twice more: give a list, or
            something else that can be iterated again and again. Only logits are kept.
        labels: [N], the class of each image, for accuracies.
        progress: told of every image of every pass.
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        DataError: there are no images, or labels for another number of them.
        InputError: ``batches`` can be iterated only once.
    """
    refuse_iterator(batches)
    with simulated(model, table, threads) as simulation:
        layers = simulation.layers
        images = sum(map(len, batches))
        given = None if labels is None else check_labels(labels, images)
        progress.begin("measuring layers", images * (len(layers) + 2), "images")
        try:
            reference = logits(simulation, batches, keep=layers, progress=progress)
            everything = simulation.answer.figures(reference, logits(simulation, batches, progress=progress), given)
            found = []
            for name in layers:
                own = simulation.answer.figures(
                    reference, logits(simulation, batches, only=[name], progress=progress), given
                )
                module, operator = simulation.module(name), simulation.operator(name)
                found.append(LayerSensitivity(name, module, operator, own.sqnr_db, own.flips, own.kl, own.accuracy))
        finally:
            progress.end()
    right = None if given is None else simulation.answer.figures(reference, reference, given).accuracy
    return Sensitivity(tuple(found), images, everything, right)


def logits(
    simulation: Simulation, batches: Iterable[Batch], *, progress: Progress = QUIET, **question: Any
) -> NDArray[np.float32]:
    """The answers of ``simulation`` to one question for all batches: float32 [N, classes].

    Raises:
        DataError: there are no images.
    """
    found = []
    for batch in batches:
        found.append(simulation.run(batch, **question))
        progress.advance(len(batch))
    if not found:
        raise DataError("no images to measure with", "give data with at least one image")
    return np.concatenate(found)


@contextmanager
def simulated(model: Model, table: CalibrationTable | None, threads: int | None) -> Iterator[Simulation]:
    """A simulation: the caller's own, or one that is closed afterwards."""
    if isinstance(model, Simulation):
        yield model
        return
    if table is None:
        raise InputError("a graph alone has no ranges", "give its calibration table")
    with Simulation(model, table, threads=threads) as simulation:
        yield simulation


def refuse_iterator(batches: Iterable[Batch]) -> None:
    """Refuse what can be iterated only once."""
    if isinstance(batches, Iterator):
        raise InputError("the batches can be iterated only once", "give a list of them")


def check_labels(labels: ArrayLike, images: int) -> NDArray[np.int64]:
    """Labels as an array.

    Raises:
        DataError: they aren't one an image.
    """
    given = np.asarray(labels, np.int64)
    if given.shape != (images,):
        raise DataError(f"{given.size} labels for {images} images", "give one label an image")
    return given


def _figures(item: dict[str, Any]) -> tuple[float, int, float, float | None]:
    return float(item["sqnr_db"]), int(item["flips"]), float(item["kl"]), _optional(item["accuracy"])


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return {name: finite(value) if isinstance(value, float) else value for name, value in item.items()}
