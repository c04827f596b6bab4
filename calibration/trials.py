"""Measures candidates for a quantised graph on the same images, again and again."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.feeds import Batch
from calibration.figures import finite
from calibration.sensitivity import logits
from calibration.simulation import Simulation
from engines.progress import QUIET, Progress

GOOD_DB = 20.0
"""Noise at a hundredth of the signal flips hardly a label; where it flips none, it is low enough."""

SURELY_GOOD_DB = 26.0
"""At a four-hundredth, labels that flip were about to flip anyway."""

Amax = dict[str, float]
Batches = Iterable[Batch]


@dataclass(frozen=True)
class Trial:
    """How a candidate measured on the held-out images.

    Attributes:
        name: the method, or what was changed last.
        sqnr_db: of the class-centred logits, each image counted once (:func:`calibration.figures.figures`); of a
            network that isn't a classifier of its outputs (:func:`calibration.figures.output_figures`).
        agreement: the share of labels as in FP32, in [0, 1]; None where there are no labels.
        kl: the mean of KL(FP32 || quantised) in nats; None likewise.
    """

    name: str
    sqnr_db: float
    agreement: float | None
    kl: float | None

    def to_json(self) -> dict[str, Any]:
        """What the table keeps of it."""
        agreement = None if self.agreement is None else round(self.agreement, 4)
        kl = None if self.kl is None else finite(float(f"{self.kl:.3g}"))
        return {
            "name": self.name,
            "sqnr_db": finite(round(self.sqnr_db, 2)),
            "agreement": agreement,
            "kl": kl,
        }


def is_good(trial: Trial) -> bool:
    """Whether nothing is worth gaining: the noise is low and flips no label, or it is very low."""
    return trial.sqnr_db >= (GOOD_DB if trial.agreement == 1 else SURELY_GOOD_DB)


class Bench:
    """The images, and what FP32 makes of them.

    Args:
        simulation: of the graph and all that isn't varied.
        held_out: batches; all are held in memory.
        progress: told of every candidate.
        reference: what FP32 makes of them, float32 [N, classes]; computed unless given.

    Attributes:
        groups: the tensors whose ranges matter.
        measured: how many candidates were measured.
    """

    def __init__(
        self,
        simulation: Simulation,
        held_out: Batches,
        progress: Progress = QUIET,
        reference: NDArray[np.float32] | None = None,
    ) -> None:
        self._simulation, self._batches, self._progress = simulation, list(held_out), progress
        if reference is None:
            reference = logits(simulation, self._batches, keep=simulation.layers)
        self._reference = reference
        self.groups = simulation.groups
        self.measured = 0
        self._best: tuple[str, float] | None = None  # of all layers together

    def measure(self, name: str, amax: Amax | None = None, *, only: Collection[str] | None = None) -> Trial:
        """Measure one candidate.

        Args:
            name: of the trial.
            amax: ranges for all groups; the table's own unless given.
            only: the layers that are quantised; all unless given.
        """
        used = None if amax is None else {group: amax[group] for group in self.groups}
        answer = self._simulation.answer
        found = answer.figures(self._reference, logits(self._simulation, self._batches, amax=used, only=only))
        self.measured += 1
        if only is None and (self._best is None or found.sqnr_db > self._best[1]):
            self._best = name, found.sqnr_db
        best = {"best": self._best[0], "SQNR": f"{self._best[1]:.1f} dB"} if self._best else {}
        self._progress.advance(1, candidate=name, **best)
        if not answer.classifies:
            return Trial(name, found.sqnr_db, None, None)
        return Trial(name, found.sqnr_db, found.agreement, found.kl)

    def readers(self, group: str) -> tuple[str, ...]:
        """The layers that read a tensor of ``group``."""
        return self._simulation.readers(group)
