"""The fewest layers to take from the first graph so that the second's logits come back within reach.

Layers that are over their floor are taken whatever the logits say: they are wrong. If that isn't enough others join
them, those with the largest errors of their own first, as many as are needed: their number is found by halving. Of
those each is left out again where the rest suffices. Every answer is measured.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bisection.probe import RUN, Probe
from calibration.bisection.record import BisectedLayer, Mending
from calibration.bisection.source import Backend, opened, task
from calibration.figures import Figures, figures
from calibration.ranges import AVERAGING, JOINING, WEIGHTED
from engines.progress import QUIET, Progress

FINDING = "Finding the layers to keep wide"
"""What the work is called while it goes on."""

ACCEPTABLE_DB = 15.0
"""What is asked of logits whatever the types cost: FP8, with three bits of mantissa, leaves some 18 dB."""

_NEAR_DB = 3.0
"""How far below what the types cost the logits may be: twice the noise."""

_BEST_DB = 90.0
"""More isn't asked of logits in float32, whatever the types cost."""

_TRIALS = 24
"""Layers that are tried to be left out again, each a pass over the images."""

KEPT = WEIGHTED | JOINING | AVERAGING
"""Operators that a quantised graph can keep back."""


def reach(types: Figures, *, over: bool) -> float:
    """From how many dB on logits are near enough.

    Args:
        types: what the types cost at the logits.
        over: whether a layer is over its floor. Where none is, the graph is as good as its types let it be, and
            asked only to be acceptable.
    """
    return max(min(types.sqnr_db - _NEAR_DB, _BEST_DB), ACCEPTABLE_DB) if over else ACCEPTABLE_DB


class Mender:
    """Measures the second graph with some of the first's layers.

    Args:
        probe: makes the graphs.
        batches: what the graph takes; gone through once a question.
        reference: the first graph's logits.
        folder: for the files that a backend needs.
        progress: told of every image.
        threads: of ONNX Runtime; all cores unless given.
        backend: what runs the second graph; None is ONNX Runtime, as written.
    """

    def __init__(
        self,
        probe: Probe,
        batches: Iterable[NDArray[Any]],
        reference: NDArray[Any],
        folder: Path,
        progress: Progress,
        threads: int | None,
        backend: Backend | None = None,
    ) -> None:
        self._probe, self._batches, self._reference = probe, batches, reference
        self._folder, self._progress, self._threads, self._backend = folder, progress, threads, backend
        self._known: dict[frozenset[str], Figures] = {}

    def mend(self, layers: Sequence[BisectedLayer], target: float) -> Mending | None:
        """The layers that are needed; None where all together don't suffice."""
        wrong = [layer for layer in layers if layer.over]
        others = sorted((item for item in layers if item.op in KEPT and not item.over), key=lambda item: item.own_db)

        def reached(chosen: Sequence[BisectedLayer]) -> bool:
            return self.measure([*wrong, *chosen]).sqnr_db >= target

        needed: list[BisectedLayer] = []
        if not wrong or not reached([]):
            if not others or not reached(others):
                return None
            needed = others[: _least(len(others), lambda count: reached(others[:count]))]
            for layer in list(reversed(needed))[-_TRIALS:]:
                rest = [item for item in needed if item is not layer]
                if (rest or wrong) and reached(rest):
                    needed = rest
        tensors = {layer.tensor for layer in (*wrong, *needed)}
        keep = tuple(name for layer in layers if layer.tensor in tensors for name in (layer.node, *layer.others))
        return Mending(keep, self.measure([*wrong, *needed]))

    def measure(self, chosen: Sequence[BisectedLayer]) -> Figures:
        """The logits with the chosen layers taken from the first graph."""
        question = frozenset(layer.tensor for layer in chosen)
        if question not in self._known:
            second = self._probe.second
            name = self._probe.measured(RUN, second.output)
            found = []
            progress = QUIET if self._backend is None else self._progress
            with (
                opened(self._probe.mended(question), self._backend, self._folder, self._threads) as runner,
                task(progress, FINDING),
            ):
                for batch in self._batches:
                    found.append(flat(runner.run([name], {second.input: batch})[0]))
                    self._progress.advance(len(batch))
            self._known[question] = figures(self._reference, np.concatenate(found))
        return self._known[question]


def flat(values: NDArray[Any]) -> NDArray[Any]:
    """Logits as [N, numbers]."""
    return values.reshape(len(values), -1)


def _least(count: int, holds: Callable[[int], bool]) -> int:
    """The least number from 1 to ``count`` that holds, if more holds wherever less does; ``count`` does."""
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
