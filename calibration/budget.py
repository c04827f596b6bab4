"""The fewest layers to keep back so that quantising the others costs little enough.

1. Nothing kept back; then, to know whether there is an answer at all, all but one layer.
2. Sets of one layer, of two: each size in the order of the error that is predicted to remain, which is the sum of the
   noise that each quantised layer adds alone, and as many of them as :data:`WIDTH`.
3. Larger sets: the noisiest layers, as many as needed, by bisection.
4. Of a larger set each layer is given back if the budget holds without it, the least noisy one first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from numpy.typing import ArrayLike, NDArray

from calibration.figures import figures
from calibration.sensitivity import Model, Sensitivity, check_labels, logits, refuse_iterator, simulated
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from engines.errors import InputError
from engines.progress import QUIET, Progress
from export.metrics import accuracy

EXHAUSTIVE = 2
"""Sets of up to so many layers are tried in the order of the predicted error."""

WIDTH = 8
"""How many sets of one size are tried at most."""

GIVEN_BACK = 24
"""How many layers of a large set are tried to be quantised again at most."""

_EXACT = 1e-9
"""Shares of images are fractions; their differences in points are held against a budget to this."""


@dataclass(frozen=True)
class Attempt:
    """One set of layers that was tried.

    Attributes:
        keep: the layers kept back, in graph order.
        accuracy: the share of right labels, in [0, 1].
        agreement: the share of labels as in FP32, in [0, 1].
        sqnr_db: of the class-centred logits.
    """

    keep: tuple[str, ...]
    accuracy: float
    agreement: float
    sqnr_db: float


@dataclass(frozen=True)
class BudgetChoice:
    """The fewest layers kept back that hold a budget, or the best set that was found.

    Attributes:
        keep: their names in graph order, without those that the table keeps already.
        drop: what that costs: points of top-1 below FP32 on the images searched with; negative for a gain.
        accuracy_fp32, accuracy_kept: the shares of right labels, in [0, 1].
        evaluated: how many sets were tried.
        tried: all of them, in order.
        holds: whether ``drop`` is within the budget. False: no set was that leaves a layer quantised.
    """

    keep: tuple[str, ...]
    drop: float
    accuracy_fp32: float
    accuracy_kept: float
    evaluated: int
    tried: tuple[Attempt, ...]
    holds: bool


def fewest_kept(
    model: Model,
    table: CalibrationTable | None,
    batches: Iterable[NDArray[Any]],
    labels: ArrayLike,
    max_drop: float,
    *,
    ranking: Sensitivity,
    progress: Progress = QUIET,
    threads: int | None = None,
) -> BudgetChoice:
    """Find a smallest set of layers to keep back that costs at most ``max_drop`` points of top-1.

    Where the budget holds with one or two layers kept back, or none, and the noise of layers adds up as independent
    noise does, the set is the smallest. Of a larger one no single layer can be given back. The number of sets tried
    is bounded, and the same arguments give the same answer.

    Args:
        model: the FP32 master graph, its path, or a simulation of it (``table`` and ``threads`` then say nothing).
        table: its ranges. What it keeps back stays so.
        batches: what the graph takes; gone through once for every set, so give a list or the like.
        labels: [N], the class of each image.
        max_drop: points of top-1 (0.5: half of a hundredth) that may be lost against FP32 on these images.
        ranking: the error that each layer adds.
        progress: told of every set.
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        DataError: there are no images, or labels for another number of them.
        InputError: ``batches`` can be iterated only once, ``max_drop`` is no budget, or ``ranking`` is of other
            layers.
    """
    refuse_iterator(batches)
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"a drop of {max_drop} points is no budget", "give 0 or more, such as 0.5")
    with simulated(model, table, threads) as simulation:
        if missing := sorted({*simulation.layers} ^ {layer.node for layer in ranking.layers}):
            raise InputError(f"the ranking and the graph differ in layer '{missing[0]}'", "measure sensitivity again")
        progress.begin("searching for layers to keep", None, "sets")
        try:
            return _Search(simulation, batches, labels, max_drop, ranking, progress).choose()
        finally:
            progress.end()


class _Search:
    """The sets that were tried, and which to try next."""

    def __init__(
        self,
        simulation: Simulation,
        batches: Iterable[NDArray[Any]],
        labels: ArrayLike,
        max_drop: float,
        ranking: Sensitivity,
        progress: Progress,
    ) -> None:
        self._simulation, self._batches, self._progress = simulation, batches, progress
        self._max_drop = max_drop
        self._reference = logits(simulation, batches, keep=simulation.layers)
        self._labels = check_labels(labels, len(self._reference))
        self._fp32 = accuracy(self._reference, self._labels)
        self._order = [layer.node for layer in ranking.worst_first()]
        self._noise = {layer.node: layer.noise for layer in ranking.layers}
        self._tried: dict[frozenset[str], Attempt] = {}

    def choose(self) -> BudgetChoice:
        """Search, and say what was found."""
        found = self._search()
        if found is None:
            best = max(self._tried.values(), key=lambda attempt: (attempt.accuracy, -len(attempt.keep)))
        else:
            best = self._tried[frozenset(found)]
        drop, tried = self._drop(best), tuple(self._tried.values())
        return BudgetChoice(best.keep, drop, self._fp32, best.accuracy, len(tried), tried, found is not None)

    def _search(self) -> Sequence[str] | None:
        widest = len(self._order) - 1
        if self._holds(()):
            return ()
        last = next(filter(self._holds, self._of_size(widest)), None)
        if last is None:
            return None
        for size in range(1, min(EXHAUSTIVE, widest) + 1):
            found = next(filter(self._holds, self._of_size(size)), None)
            if found is not None:
                return found
        return self._given_back(self._shortest(last))

    def _of_size(self, size: int) -> list[tuple[str, ...]]:
        """Sets of ``size`` layers, those that are predicted to leave the least noise first."""
        positions = range(len(self._order))
        if size * 2 <= len(self._order):
            chosen = list(combinations(positions, size))
        else:  # there are fewer ways to say what isn't kept
            others = combinations(positions, len(self._order) - size)
            chosen = [tuple(sorted({*positions} - {*left})) for left in others]

        def remaining(kept: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
            return sum(self._noise[self._order[index]] for index in positions if index not in kept), kept

        return [tuple(self._order[index] for index in kept) for kept in sorted(chosen, key=remaining)[:WIDTH]]

    def _shortest(self, widest: tuple[str, ...]) -> tuple[str, ...]:
        """The fewest of the noisiest layers that hold the budget; ``widest``, which does, where they don't."""
        order = [*widest, *(name for name in self._order if name not in widest)]
        fails, holds = min(EXHAUSTIVE, len(widest)), len(widest)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if self._holds(order[:middle]):
                holds = middle
            else:
                fails = middle
        return tuple(order[:holds])

    def _given_back(self, keep: tuple[str, ...]) -> tuple[str, ...]:
        for name in sorted(keep, key=self._order.index, reverse=True)[:GIVEN_BACK]:
            fewer = tuple(other for other in keep if other != name)
            if self._holds(fewer):
                keep = fewer
        return keep

    def _holds(self, keep: Sequence[str]) -> bool:
        key = frozenset(keep)
        if key not in self._tried:
            found = figures(self._reference, logits(self._simulation, self._batches, keep=keep), self._labels)
            kept = tuple(name for name in self._simulation.layers if name in key)
            attempt = Attempt(kept, found.accuracy or 0.0, found.agreement, found.sqnr_db)
            self._tried[key] = attempt
            self._progress.advance(1, kept=len(kept), drop=round(self._drop(attempt), 2))
        return self._drop(self._tried[key]) <= self._max_drop + _EXACT

    def _drop(self, attempt: Attempt) -> float:
        return 100 * (self._fp32 - attempt.accuracy)
