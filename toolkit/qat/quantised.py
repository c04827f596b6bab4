"""From a trained network to one that learns with the rounding of its INT8 graph, and back."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engines.errors import UnsupportedError
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.qat.measure import Measured, measure

if TYPE_CHECKING:
    from torch import nn

    from calibration.table import CalibrationTable
    from engines.metadata import ModelMetadata
    from export.training.fake_quant import FakeQuantisation
    from toolkit.data import Dataset

METHOD = "qat"
"""The calibration method that a learned table tells of, and a learned range."""

CHECKED = 8
"""Images on which the simulation is held against the INT8 graph before anything is trained."""

_UNEXPLAINED = 0.5
"""The share of INT8's error that may differ between the two: a value on the edge between two codes may fall to
either side, and what follows from that grows with every layer. A tensor that isn't rounded in one of them
shows in more of the error in most images."""


def prepare(
    module: "nn.Module",
    metadata: "ModelMetadata",
    dataset: "Dataset",
    *,
    images: int = 512,
    seed: int = 0,
    batch_size: int = 32,
    threads: int | None = None,
    progress: Progress = QUIET,
) -> "Quantised":
    """Calibrate a network and attach fake quantisation to it, before its training.

    The module is exported in memory and measured on images of the train split (method "auto", without equalisation,
    clipped weights and corrected biases, which fake quantisation doesn't have); what its INT8 graph for TensorRT
    rounds is rounded in the module from now on. The same call gives the same result, so that an interrupted training
    goes on with ``train(..., resume=state)`` after it.

    Args:
        module: the trained network, float32 on the CPU; it is changed in place until :meth:`Quantised.finish`.
        metadata: what it was trained with.
        dataset: its train split is used.
        images: how many to measure on, each class in its proportion; all where there are fewer.
        seed: of their choice.
        batch_size: images measured at a time.
        threads: CPU threads of the measuring; None takes all cores.
        progress: told of every step.

    Raises:
        BuildError: the module can't be exported.
        DataError: the data can't be used.
        GraphError: there is nothing to quantise.
        InputError: an option makes no sense, or the network takes no pictures.
        UnsupportedError: fake quantisation can't reach what the INT8 graph rounds; the message names it.
    """
    require("onnxruntime", "Quantisation-aware training", "onnxruntime")
    from export.training.fake_quant import FakeQuantisation
    from toolkit.qat.sites import find_sites

    measured = measure(module, metadata, dataset, images, seed, batch_size, threads, progress)
    layers, operands = find_sites(measured.model, measured.table, module)
    names = dict.fromkeys([*(layer.range for layer in layers), *(operand.range for operand in operands)])
    amax = {name: measured.table.range_of(name).amax for name in names}
    attached = FakeQuantisation(module, amax, layers, operands)
    try:
        _check(module, measured)
    except BaseException:
        attached.detach()
        raise
    return Quantised(module, metadata, dataset, attached, (images, seed, batch_size, threads), measured.table)


class Quantised:
    """A module with fake quantisation attached.

    Attributes:
        calibrated: the table that its ranges began with.
    """

    def __init__(
        self,
        module: "nn.Module",
        metadata: "ModelMetadata",
        dataset: "Dataset",
        attached: "FakeQuantisation",
        options: tuple[int, int, int, int | None],
        calibrated: "CalibrationTable",
    ) -> None:
        self._module, self._metadata, self._dataset = module, metadata, dataset
        self._attached, self._options = attached, options
        self.calibrated = calibrated

    def ranges(self) -> dict[str, float]:
        """The magnitude at which each tensor is clipped now, by name."""
        return self._attached.ranges()

    def detach(self) -> None:
        """Leave the plain float network, without a table."""
        self._attached.detach()

    def finish(self, progress: Progress = QUIET) -> dict[str, Any]:
        """Leave the plain float network in the module, and give the table of its INT8 graph.

        Call it once, when the module holds the weights to be kept, on the CPU. Ranges that were learned stay as they
        are; those that only other targets need are measured on the same images with the new weights.

        Args:
            progress: told of every step.

        Returns:
            A calibration table's JSON, to be kept in the checkpoint's training record under
            :data:`toolkit.qat.KEY`, where :func:`toolkit.qat.write_learned_table` finds it.
        """
        learned = self._attached.ranges()
        self._attached.detach()
        measured = measure(self._module, self._metadata, self._dataset, *self._options, progress)
        table = measured.table
        before = {name: self.calibrated.range_of(name).amax for name in learned}
        ranges = {
            name: replace(found, amax=learned[name], method=METHOD)
            if name in learned
            else replace(found, method=found.method or table.method)
            for name, found in table.ranges.items()
        }
        moved = sorted(learned[name] / before[name] for name in learned if before[name] > 0)
        told = {key: value for key, value in table.facts.items() if key in {"data", "split", "seed", "classes"}}
        facts = {
            **told,
            "learned": f"{len(learned)} of {len(ranges)} ranges",
            "learned_over_calibrated": [round(share, 4) for share in (moved[0], moved[-1])] if moved else [],
        }
        return replace(table, ranges=ranges, method=METHOD, facts=facts).to_json()


def _check(module: "nn.Module", measured: Measured) -> None:
    """Hold the module against the INT8 graph.

    Raises:
        UnsupportedError: they answer differently.
    """
    import numpy as np
    import torch

    from calibration.simulation import Simulation

    pixels = measured.first(CHECKED)
    training = module.training
    module.eval()
    with torch.no_grad():
        ours = module(torch.from_numpy(pixels)).numpy()
    module.train(training)
    with Simulation(measured.model, measured.table, threads=measured.threads) as graph:
        theirs, exact = graph.run(pixels), graph.reference(pixels)
    error, noise = ((a - theirs).astype(np.float64) ** 2 for a in (ours, exact))
    share = float(np.median(error.sum(1) / (noise.sum(1) + 1e-9 * (exact.astype(np.float64) ** 2).sum(1) + 1e-30)))
    if not share <= _UNEXPLAINED:
        raise UnsupportedError(
            "this network can't be trained with fake quantisation: it doesn't answer as its INT8 graph does "
            f"(they differ by {share:.0%} of what INT8 changes)",
            "train without --qat, and calibrate with `toolkit calibrate`",
        )
