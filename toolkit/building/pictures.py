"""The images that a quantised graph is measured on: others than its ranges were chosen on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from toolkit.data import Dataset, Split, align_labels, choose, pixel_batches

if TYPE_CHECKING:
    from calibration.table import CalibrationTable
    from engines.metadata import ModelMetadata
    from engines.preprocess import Preprocess

FEW = 64
"""With fewer images than this left, those that were calibrated on are taken too."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled images as a graph takes them; decoded anew each time, so any number takes one batch of memory.

    :meth:`held` decodes them once, for who goes through them again and again.

    Attributes:
        split: where they come from, its labels in the model's class order.
        indices: which, in which order.
        preprocess: of the model.
        uint8: whether the graph takes raw pixels and normalises them itself.
        batch_size: images a batch.
    """

    split: Split
    indices: NDArray[np.int64]
    preprocess: "Preprocess"
    uint8: bool
    batch_size: int = 32

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]: the true class numbers."""
        return self.split.labels[self.indices]

    def pixels(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Batches of (uint8 [n, height, width, channels], int64 [n])."""
        return pixel_batches(self.split, self.preprocess, self.batch_size, indices=self.indices)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Batches as the graph takes them: float32 [n, C, H, W], or uint8 [n, H, W, C]."""
        for pixels, _ in self.pixels():
            yield pixels if self.uint8 else self.preprocess.normalise(pixels)

    def held(self) -> "Held":
        """The same images decoded once and kept, a byte a value: 77 MB for 512 of 224×224."""
        return Held(tuple(self.pixels()), self.preprocess, self.uint8)


@dataclass(frozen=True, eq=False)
class Held:
    """Decoded images; iterated like :class:`Pictures`."""

    batches: tuple[tuple[NDArray[np.uint8], NDArray[np.int64]], ...]
    preprocess: "Preprocess"
    uint8: bool

    def first(self, count: int) -> "Held":
        """As many whole batches as hold ``count`` images."""
        ends = np.cumsum([len(labels) for _, labels in self.batches])
        return replace(self, batches=self.batches[: int(np.searchsorted(ends, count)) + 1])

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.batches)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]: the true class numbers."""
        return np.concatenate([labels for _, labels in self.batches])

    def pixels(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Batches of (uint8 [n, height, width, channels], int64 [n])."""
        return iter(self.batches)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Batches as the graph takes them."""
        for pixels, _ in self.batches:
            yield pixels if self.uint8 else self.preprocess.normalise(pixels)


def labelled(dataset: Dataset, metadata: "ModelMetadata") -> Dataset:
    """The data in the model's class order.

    Raises:
        DataError: its labels say nothing, or aren't the model's.
    """
    if len(np.unique(np.concatenate([dataset.train.labels, dataset.test.labels]))) < 2:
        raise DataError(
            f"the images of '{dataset.name}' are all of one class, so no accuracy can be measured on them",
            "give labelled images: a folder a class, or an .npz with labels",
        )
    return align_labels(dataset, metadata.labels)


def evaluation_pictures(
    dataset: Dataset, metadata: "ModelMetadata", count: int | None = None, *, seed: int = 0
) -> Pictures:
    """Images of the test split, which nothing is chosen on; all of them unless ``count`` is given."""
    indices = choose(dataset.test, count or len(dataset.test), seed)
    return Pictures(dataset.test, indices, metadata.preprocess, metadata.uint8_input)


def search_pictures(
    dataset: Dataset,
    metadata: "ModelMetadata",
    table: "CalibrationTable",
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[Pictures, tuple[str, ...]]:
    """Images of the train split that the table's ranges were not chosen on, in the classes' proportions.

    They are told by the fingerprints in the table; an older table has none, and tells seed and number.

    Args:
        dataset: its labels in the model's class order.
        metadata: the model's.
        table: says what was calibrated on.
        count: how many; fewer where there are no more.
        seed: of the choice.
        batch_size: images a batch.

    Returns:
        The images, and a line for each thing that the user should know about them.
    """
    split = dataset.train
    # Not the calibration's own seed: where the split is large the two choices hardly meet.
    order = choose(split, count + table.images, seed + 1)
    if len(order) < len(split):
        order = np.concatenate([order, np.setdiff1d(np.arange(len(split)), order)])
    notes: list[str] = []
    repeated, known = _repeated(dataset, metadata, table, order)
    fresh = np.array(list(islice((index for index, again in repeated if not again), count)), np.int64)
    if not known:
        notes.append("the table doesn't tell which images it was calibrated on: some may be measured on again")
    if len(fresh) < min(FEW, count, len(split)):
        others = np.setdiff1d(order, fresh)[: min(count, len(split)) - len(fresh)]
        notes.append(
            f"{f'only {len(fresh)}' if len(fresh) else 'no'} training images are left that were not calibrated on: "
            f"{len(others)} that were are measured on{' too' if len(fresh) else ''}"
        )
        fresh = np.concatenate([fresh, others])
    return Pictures(split, fresh, metadata.preprocess, metadata.uint8_input, batch_size), tuple(notes)


def _repeated(
    dataset: Dataset, metadata: "ModelMetadata", table: "CalibrationTable", order: NDArray[np.int64]
) -> tuple[Iterator[tuple[int, bool]], bool]:
    """Each index and whether the calibration saw that image; and whether that is known at all."""
    from calibration.provenance import SHORT, fingerprint, unpack

    if seen := unpack(table.seen):
        batches = pixel_batches(dataset.train, metadata.preprocess, 32, indices=order)
        images = (image for pixels, _ in batches for image in pixels)
        return (
            (int(index), fingerprint(image)[: 2 * SHORT] in seen) for index, image in zip(order, images, strict=False)
        ), True
    facts = table.facts
    known = facts.get("data") == dataset.name and facts.get("split") == "train" and isinstance(facts.get("seed"), int)
    before = set(choose(dataset.train, max(table.images, 1), facts["seed"]).tolist()) if known else set[int]()
    return ((int(index), int(index) in before) for index in order), known
