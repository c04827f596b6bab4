"""The images that are timed: the same ones in every launch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import DataError, ToolkitError
from engines.metadata import ModelMetadata
from engines.passport import find_passport
from engines.preprocess import Preprocess
from engines.progress import Progress
from toolkit.artifacts import kind_of
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.measuring.plan import Entry, Plan

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

    from engines.tensors import Array
    from toolkit.data import Dataset
    from toolkit.data.tensors import TensorDataset

IMAGES = 32
"""Different images in a batch; larger batches repeat them."""


def open_samples(
    data: "str | PathLike[str] | Dataset | TensorDataset", contestants: Sequence[Contestant], progress: Progress
) -> "Dataset | TensorDataset":
    """The data as the artifacts take it: pictures, or the tensors in an ``.npz``.

    Raises:
        DataError: it can't be used.
        InputError: there is no such file.
    """
    from toolkit.data import Dataset, open_dataset
    from toolkit.data.tensors import TensorDataset, open_tensors

    if isinstance(data, Dataset | TensorDataset):
        return data
    if Path(data).suffix == ".npz":  # pictures and tensors both come so
        known = next(filter(None, map(known_metadata, contestants)), None)
        if known is not None and known.pictures is None:
            return open_tensors(data, known)
    # The seed is not passed on: another split than training's would evaluate on training images.
    return open_dataset(data, progress=progress)


def known_metadata(contestant: Contestant) -> ModelMetadata | None:
    """What an artifact says of its network without being opened; None where it says nothing, or can't be read."""
    path = Path(contestant.path)
    try:
        kind = kind_of(path)
        if kind == "graph":
            from export.graph import peek_metadata

            return peek_metadata(path)
        if kind == "plan":
            passport = find_passport(path)
            return passport.metadata if passport else None
        if kind == "checkpoint":
            from export.checkpoint import load_checkpoint

            return load_checkpoint(path, **contestant.options).metadata
    except ToolkitError:
        return None
    return None


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
                if metadata.pictures is None:
                    worker.feed(self._tensors(), None)
                else:
                    spec = metadata.pictures
                    worker.feed(self._of(spec), None if metadata.uint8_input else spec)
            except ToolkitError as error:
                entry.error = error

    def _tensors(self) -> "Mapping[str, Array]":
        from toolkit.data.tensors import TensorDataset, choose_samples

        data = self._dataset
        if not isinstance(data, TensorDataset):
            raise DataError("the data holds pictures, and no tensors", "give an .npz of the network's inputs")
        indices = choose_samples(data.test, self._images or len(data.test), self._seed)[:IMAGES]
        return data.test.subset(indices).arrays

    def _of(self, spec: Preprocess) -> "NDArray[np.uint8]":
        from toolkit.data import choose, pixel_batches
        from toolkit.data.tensors import TensorDataset

        assert self._dataset is not None  # noqa: S101 - asked before
        if isinstance(self._dataset, TensorDataset):
            raise DataError(f"'{self._dataset.name}' holds tensors, and no pictures", "give pictures")
        if spec not in self._pixels:
            split = self._dataset.test
            indices = choose(split, self._images or len(split), self._seed)[:IMAGES]
            [(self._pixels[spec], _)] = pixel_batches(split, spec, IMAGES, indices=indices)
        return self._pixels[spec]
