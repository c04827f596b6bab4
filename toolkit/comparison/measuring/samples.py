"""The images that are timed: the same ones in every launch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engines.errors import ToolkitError
from engines.preprocess import Preprocess
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.measuring.plan import Entry, Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGES = 32
"""Different images in a batch; larger batches repeat them."""


class Samples:
    """Gives measuring processes the first images of the data, as pixels of each one's size.

    Without data, and for an artifact without metadata, what is timed is noise.
    """

    def __init__(self, plan: Plan) -> None:
        self._dataset, self._images, self._seed = plan.dataset, plan.images, plan.pace.seed
        self._pixels: dict[Preprocess, NDArray[np.uint8]] = {}

    def feed(self, entries: Mapping[str, Entry], workers: Mapping[str, WorkerProcess]) -> None:
        """Send them; an entry whose process fails at that gets the error."""
        for name, worker in workers.items():
            entry = entries[name]
            if self._dataset is None or entry.metadata is None or not entry.runs:
                continue
            metadata = entry.metadata
            try:
                worker.feed(self._of(metadata.preprocess), None if metadata.uint8_input else metadata.preprocess)
            except ToolkitError as error:
                entry.error = error

    def _of(self, spec: Preprocess) -> "NDArray[np.uint8]":
        from toolkit.data import choose, pixel_batches

        assert self._dataset is not None  # noqa: S101 - asked before
        if spec not in self._pixels:
            split = self._dataset.test
            indices = choose(split, self._images or len(split), self._seed)[:IMAGES]
            [(self._pixels[spec], _)] = pixel_batches(split, spec, IMAGES, indices=indices)
        return self._pixels[spec]
