"""What a data set is to the toolkit: labelled images in two splits, and a hint how to preprocess them."""

import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError
from engines.files import digest_bytes
from engines.preprocess import ImageLike, Preprocess, Resize

MAX_CLASSES = 65_536
"""More classes than this mean that the labels aren't class numbers."""


class LazyImages(Sequence[ImageLike]):
    """Images that are read when they are asked for, and not kept: of shards, of a table on disk.

    ``images[i]`` is called from several threads at once. What it gives is best a
    :class:`engines.preprocess.NamedBytes`, whose name tells of a damaged picture.
    """

    @abstractmethod
    def subset(self, indices: NDArray[np.int64]) -> "LazyImages":
        """The same images, these alone, in this order; nothing is read."""

    @abstractmethod
    def identity(self, *, strict: bool) -> bytes:
        """What tells these images from others without decoding them: where they lie in what, and how large that is.

        Args:
            strict: also when that was changed, for who goes on with what was begun a moment ago.
        """

    def __getitem__(self, index: Any) -> Any:
        """Image ``index``; slices aren't needed, :meth:`subset` takes their place."""
        return self.image(range(len(self))[index])

    @abstractmethod
    def image(self, index: int) -> ImageLike:
        """Image ``index``, from 0."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and the class number of each.

    Attributes:
        images: pixels in one array uint8 [N, H, W] or [N, H, W, 3]; or a sequence of whatever
            :meth:`engines.preprocess.Preprocess.pixels` takes: paths, encoded bytes, :class:`LazyImages`.
        labels: int64 [N], each an index into the data set's labels.
    """

    images: Sequence[ImageLike] | NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Hold the two to one length."""
        if self.labels.shape != (len(self.images),):
            raise DataError(
                f"{len(self.images)} images but labels of shape {list(self.labels.shape)}", "give one label an image"
            )

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> ImageLike:
        """Image ``index``: a path, encoded bytes, or uint8 [H, W] or [H, W, 3]; from any thread."""
        image: ImageLike = self.images[index]
        return image

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """The split of these images, in this order."""
        if isinstance(self.images, np.ndarray):
            return Split(self.images[indices], self.labels[indices])
        if isinstance(self.images, LazyImages):
            return Split(self.images.subset(indices), self.labels[indices])
        return Split(tuple(self.images[int(i)] for i in indices), self.labels[indices])

    def identity(self, *, strict: bool = False) -> bytes:
        """What tells these images from others, without decoding any; the labels aren't in it.

        Of an array it is the shape and every value; of files their names and sizes, which tell apart what people
        mix up.

        Args:
            strict: of files the whole path and the time of the last change too.

        Raises:
            DataError: a file is gone.
        """
        if isinstance(self.images, np.ndarray):
            return repr(self.images.shape).encode() + self.images.tobytes()
        if isinstance(self.images, LazyImages):
            return self.images.identity(strict=strict)
        return json.dumps([_identity(image, strict=strict) for image in self.images]).encode()


def _identity(image: ImageLike, *, strict: bool) -> list[Any]:
    if isinstance(image, str | PathLike):
        path = Path(image)
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(f"can't read '{path}': {error.strerror}", "give the data anew") from error
        return [fspath(path), facts.st_size, facts.st_mtime_ns] if strict else [path.name, facts.st_size]
    if isinstance(image, bytes):
        return [digest_bytes(image)]
    array = np.asarray(image)
    return [list(array.shape), str(array.dtype), digest_bytes(array.tobytes())]


@dataclass(frozen=True)
class PreprocessHint:
    """What the data itself says about its preprocessing.

    Attributes:
        resize: "stretch" for drawings that fill their frame (digits, IDX), "crop" for photographs.
        channels: 1 or 3: what the pictures have.
        height, width: the native size in pixels; None where it differs from picture to picture.
    """

    resize: Resize
    channels: int
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in two splits.

    Attributes:
        name: what it is called in records ("digits", the folder's name).
        labels: the name of each class, in the order of the class numbers.
        train: for training and calibration.
        test: for evaluation; never trained or calibrated on.
        preprocess_hint: resize mode, native size and channels.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    test: Split
    preprocess_hint: PreprocessHint


def suggest_preprocess(
    dataset: Dataset,
    height: int,
    width: int,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocess:
    """The preprocessing for a network of this input size on this data.

    Args:
        dataset: decides between "stretch" and "crop".
        height: the network's input height in pixels.
        width: its width.
        channels: the network's; None takes the data's own.
        mean: per channel, on pixels scaled to [0, 1]; None gives ImageNet's for three channels, 0.5 for one.
        std: likewise.

    Raises:
        InputError: the values don't make a preprocessing.
    """
    channels = dataset.preprocess_hint.channels if channels is None else channels
    defaults = Preprocess(height, width) if channels == 3 else None
    fallback = (0.5,) * channels
    return Preprocess(
        height,
        width,
        channels=channels,
        resize=dataset.preprocess_hint.resize,
        mean=tuple(mean) if mean is not None else defaults.mean if defaults else fallback,
        std=tuple(std) if std is not None else defaults.std if defaults else fallback,
    )


def choose(split: Split, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of ``count`` images, seeded, each class in the proportion that it has in the split.

    Shares are rounded by largest remainder, so that every class is within one image of its exact
    share. The order is shuffled, so that every part of it is mixed too.

    Args:
        split: where to choose from.
        count: how many; the whole split where it has no more.
        seed: the same seed gives the same images.

    Returns:
        int64 [min(count, len(split))], each index at most once.

    Raises:
        InputError: ``count`` is not positive, or ``seed`` is negative.
        DataError: the split is empty.
    """
    if count < 1:
        raise InputError(f"{count} images asked for", "ask for 1 or more")
    if seed < 0:
        raise InputError(f"a seed of {seed} makes no sense", "give --seed 0 or more")
    if not len(split):
        raise DataError("there is no image to choose from", "give a data set with images")
    rng = np.random.default_rng(seed)
    if count >= len(split):
        return rng.permutation(len(split)).astype(np.int64)
    classes, sizes = np.unique(split.labels, return_counts=True)
    exact = sizes * (count / len(split))
    shares = np.floor(exact).astype(np.int64)
    tie_break = rng.permutation(len(classes))
    by_remainder = np.lexsort((tie_break, -(exact - shares)))
    shares[by_remainder[: count - int(shares.sum())]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(split.labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen)).astype(np.int64)


def stratified_split(
    labels: NDArray[np.int64], names: Sequence[str], *, test_share: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of a train and a test part in which every class has the same share.

    Args:
        labels: int64 [N].
        names: the classes' names, for the error.
        test_share: the share of each class that becomes test images, at least one image.
        seed: the same seed gives the same parts.

    Returns:
        (train, test): int64 index arrays, ascending, disjoint, together everything.

    Raises:
        DataError: a class has a single image, which can't be in both parts.
    """
    rng = np.random.default_rng(seed)
    in_test = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"class '{names[int(label)]}' has one image, too few for a train and a test part",
                "add images of that class, or give train/ and test/ folders of your own",
            )
        size = min(max(round(len(members) * test_share), 1), len(members) - 1)
        in_test[rng.permutation(members)[:size]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def align_labels(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """The same images with class numbers in the order of a model's ``labels``.

    Classes are matched by name. A model without names of its own ("0", "class 1", …) takes the
    data's numbers as they are, where it has enough outputs for them.

    Raises:
        DataError: the data has a class that the model doesn't know.
    """
    labels = tuple(labels)
    if dataset.labels == labels:
        return dataset
    numbers = {name: number for number, name in enumerate(labels)}
    unknown = [name for name in dataset.labels if name not in numbers]
    if not unknown:
        order = np.array([numbers[name] for name in dataset.labels], np.int64)
        return replace(
            dataset,
            labels=labels,
            train=replace(dataset.train, labels=order[dataset.train.labels]),
            test=replace(dataset.test, labels=order[dataset.test.labels]),
        )
    if len(dataset.labels) <= len(labels) and all(
        re.fullmatch(rf"(class[ _-]?)?{number}", name) for number, name in enumerate(labels)
    ):
        return replace(dataset, labels=dataset.labels + labels[len(dataset.labels) :])
    raise DataError(
        f"the model has no class '{unknown[0]}' ({len(unknown)} of the {len(dataset.labels)} classes of "
        f"'{dataset.name}' are unknown to it)",
        f"give data of the model's classes: {', '.join(labels[:10])}{', …' if len(labels) > 10 else ''}",
    )
