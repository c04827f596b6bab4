"""Which layers an accuracy budget should keep, as a simulation of the quantised graph finds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engines.progress import Progress
from export.structure import label, producers

if TYPE_CHECKING:
    import onnx

    from calibration.budget import BudgetChoice
    from calibration.sensitivity import Sensitivity
    from calibration.table import CalibrationTable
    from toolkit.building.pictures import Held

RANKED_ON = 256
"""Images that layers are ranked on, at most: a rank needs fewer than a share of right answers."""

Keep = tuple[str, ...]


class Search:
    """What a simulation of the quantised graph finds.

    Args:
        model: the FP32 master graph.
        table: its ranges.
        images: what is searched on.
        max_drop: points of top-1 that may be lost.
        progress: told of the work.
    """

    def __init__(
        self, model: "onnx.ModelProto", table: "CalibrationTable", images: "Held", max_drop: float, progress: Progress
    ) -> None:
        from calibration.simulation import Simulation

        self._simulation = Simulation(model, table)
        self._images, self._max_drop, self._progress = images, max_drop, progress
        self._ranking: Sensitivity | None = None

    def choice(self) -> "BudgetChoice":
        """The fewest layers that hold the budget; nothing is ranked where none has to be kept."""
        from calibration.budget import BudgetChoice, fewest_kept

        images = len(self._images)
        fp32 = self._right("FP32", keep=self._simulation.layers)
        everything = self._right("all layers quantised")
        drop = 100 * (fp32 - everything) / images
        if drop <= self._max_drop:
            return BudgetChoice((), drop, fp32 / images, everything / images, 1, (), holds=True)
        return fewest_kept(
            self._simulation,
            None,
            self._images,
            self._images.labels,
            self._max_drop,
            ranking=self._ranked(),
            progress=self._progress,
        )

    def order(self) -> Keep:
        """Every layer, the most sensitive first."""
        return tuple(layer.node for layer in self._ranked().worst_first())

    def _ranked(self) -> "Sensitivity":
        from calibration.sensitivity import sensitivity

        if self._ranking is None:
            self._ranking = sensitivity(
                self._simulation, None, self._images.first(RANKED_ON), progress=self._progress
            )
        return self._ranking

    def _right(self, what: str, keep: Keep = ()) -> int:
        """The number of right answers."""
        right = 0
        self._progress.begin(f"searching: {what}", len(self._images), "images")
        try:
            for batch, (_, labels) in zip(self._images, self._images.pixels(), strict=True):
                logits = self._simulation.run(batch, keep=keep)
                right += int((np.isfinite(logits).all(axis=1) & (logits.argmax(axis=1) == labels)).sum())
                self._progress.advance(len(batch))
        finally:
            self._progress.end()
        return right


def behind_each(model: "onnx.ModelProto", order: Sequence[str]) -> Keep:
    """``order`` with each layer followed by those that make what it reads: they quantise that for ONNX Runtime."""
    made_by = producers(model.graph)
    nodes = {label(node): node for node in model.graph.node}
    layers = set(order)
    found: dict[str, None] = {}
    for name in order:
        found[name] = None
        waiting, passed = list(nodes[name].input), set[str]()
        while waiting:
            node = made_by.get(waiting.pop())
            if node is None or label(node) in passed:
                continue
            passed.add(label(node))
            if label(node) in layers:
                found[label(node)] = None
            else:
                waiting += node.input
    return tuple(found)
