"""Samples for networks that take tensors, not pictures: one array an input, in an ``.npz``."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError
from engines.files import digest_bytes, require_file
from engines.metadata import ModelMetadata
from engines.tensors import Array, TensorSpec
from toolkit.data.dataset import Dataset
from toolkit.data.npz import MAX_BYTES

if TYPE_CHECKING:
    from os import PathLike

LABELS = ("labels", "y")
"""What an array of class numbers or names may be called, where no input is."""

TEST_SHARE = 0.2
"""The share of samples that are for evaluation, where the file doesn't split them itself."""

FIXED_SEED = 0
"""Of that split: another one would evaluate on samples that ranges were chosen on."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Samples, and the class number of each where there are any.

    Attributes:
        arrays: by input in the network's order, [N, ...] each, of its types.
        labels: int64 [N]; None where there are none.
    """

    arrays: Mapping[str, Array]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def subset(self, indices: NDArray[np.int64]) -> "TensorSplit":
        """The split of these samples, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return TensorSplit({name: array[indices] for name, array in self.arrays.items()}, labels)

    def batches(self, size: int, indices: NDArray[np.int64] | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of up to ``size`` samples, in the order of ``indices``; all unless given."""
        order = np.arange(len(self)) if indices is None else indices
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield {name: array[chosen] for name, array in self.arrays.items()}

    def identity(self) -> bytes:
        """What tells these samples from others: names, types, shapes and every value."""
        return repr(
            [
                (name, array.dtype.name, array.shape, digest_bytes(array.tobytes()))
                for name, array in self.arrays.items()
            ]
        ).encode()


@dataclass(frozen=True, eq=False)
class TensorDataset:
    """Samples in two splits.

    Attributes:
        name: what it is called in records: the file's name.
        train: for calibration.
        test: for evaluation; never calibrated on.
        labels: the classes' names, as the model has them; empty where there are no labels.
    """

    name: str
    train: TensorSplit
    test: TensorSplit
    labels: tuple[str, ...] = ()


def open_tensors(source: "str | PathLike[str] | Dataset | TensorDataset", metadata: ModelMetadata) -> TensorDataset:
    """Open an archive with one array [N, ...] for each of a network's inputs, called like it.

    With arrays called ``train/NAME`` and ``test/NAME`` instead it brings its own split; else a seeded fifth is for
    evaluation. For a classifier ``labels`` (or ``y``; ``train/labels`` and ``test/labels``) may hold each sample's
    class, by number or by name. Floats of another size and integers that fit are converted to the input's type;
    nothing else is. Other arrays are left alone.

    Args:
        source: the file; a data set that is open already is given back.
        metadata: the model's.

    Raises:
        DataError: it isn't an ``.npz``, is damaged, lacks an input, or an array doesn't fit its input.
        InputError: there is no such file.
    """
    if isinstance(source, TensorDataset):
        return source
    if isinstance(source, Dataset):
        raise DataError(f"'{source.name}' holds pictures, and the network takes tensors", "give an .npz of those")
    path, specs = Path(source), metadata.taken
    if path.suffix != ".npz":
        raise DataError(
            f"'{path}' is no .npz, but {metadata.architecture} takes {'; '.join(map(str, specs))}",
            "write one array an input with numpy.savez",
        )
    require_file(path)
    taken = {spec.name for spec in specs}
    classes = [name for name in LABELS if name not in taken] if metadata.scores != "none" else []
    arrays, held = _load(path, [*taken, *classes])
    splits = [
        _split(path, arrays, held, specs, classes, metadata, part) for part in _parts(path, arrays, held, specs)
    ]
    if len(splits) == 1:
        order = np.random.default_rng(FIXED_SEED).permutation(len(splits[0])).astype(np.int64)
        size = max(1, round(len(order) * TEST_SHARE))
        if len(order) < 2:
            raise DataError(f"'{path}' holds one sample, too few for a train and a test part", "give more")
        splits = [splits[0].subset(np.sort(order[size:])), splits[0].subset(np.sort(order[:size]))]
    labelled = all(split.labels is not None for split in splits)
    train, test = splits
    return TensorDataset(path.stem, train, test, metadata.labels if labelled else ())


def choose_samples(split: TensorSplit, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of ``count`` samples at random, seeded; of all where there are no more.

    Raises:
        InputError: ``count`` is not positive, or ``seed`` is negative.
    """
    if count < 1 or seed < 0:
        raise InputError(f"{count} samples with a seed of {seed}", "ask for 1 or more, and a seed of 0 or more")
    order = np.random.default_rng(seed).permutation(len(split)).astype(np.int64)
    return order[:count]


def _load(path: Path, wanted: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays whose names mean something here, and the names of all."""
    names = {f"{part}{name}" for name in wanted for part in ("", "train/", "test/")}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(
                f"'{path}' unpacks to {size >> 30} GiB, more than {MAX_BYTES >> 30}", "give a smaller set"
            )
        with np.load(path, allow_pickle=False) as archive:
            held = sorted(archive.files)
            return {name: archive[name] for name in held if name in names}, held
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        why = "it holds pickled objects" if "allow_pickle" in str(error) else str(error)
        raise DataError(f"can't read '{path}': {why}", "write it with numpy.savez from plain arrays") from error
    except OSError as error:
        raise DataError(f"can't read '{path}': {error.strerror or error}", "check the file") from error


def _parts(
    path: Path, arrays: Mapping[str, NDArray[Any]], held: Sequence[str], specs: Sequence[TensorSpec]
) -> tuple[str, ...]:
    """What stands before the names in each split."""
    whole = [spec.name for spec in specs if spec.name in arrays]
    own = [name for spec in specs for part in ("train/", "test/") if (name := f"{part}{spec.name}") in arrays]
    if whole and own:
        raise DataError(f"'{path}' holds both {whole[0]} and {own[0]}", "give train/ and test/ arrays, or neither")
    if not whole and not own:
        raise DataError(
            f"'{path}' holds {', '.join(held[:10]) or 'nothing'}, and no {specs[0].name}",
            f"give an array an input: {', '.join(spec.name for spec in specs)}",
        )
    return ("train/", "test/") if own else ("",)


def _split(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    held: Sequence[str],
    specs: Sequence[TensorSpec],
    classes: Sequence[str],
    metadata: ModelMetadata,
    part: str,
) -> TensorSplit:
    found = {}
    for spec in specs:
        name = f"{part}{spec.name}"
        if name not in arrays:
            raise DataError(f"'{path}' has no {name}: it holds {', '.join(held[:10])}", f"give {spec}")
        found[spec.name] = _fitting(path, name, arrays[name], spec)
    sizes = {name: len(array) for name, array in found.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{part}{name} has {size}" for name, size in sizes.items())
        raise DataError(f"the arrays of '{path}' have different numbers of samples: {shown}", "give one row a sample")
    size = next(iter(sizes.values()))
    label = next((f"{part}{name}" for name in classes if f"{part}{name}" in arrays), None)
    labels = None if label is None else _labels(path, label, arrays[label], size, metadata.labels)
    return TensorSplit(found, labels)


def _fitting(path: Path, name: str, array: NDArray[Any], spec: TensorSpec) -> Array:
    """The array in its input's type, or the error that it doesn't fit."""
    shape = tuple(spec.shape[1:])
    if array.ndim != len(spec.shape) or array.shape[1:] != shape or not len(array):
        raise DataError(f"'{name}' in '{path}' is {list(array.shape)}", f"give [N, {', '.join(map(str, shape))}]")
    wanted = np.dtype(spec.dtype)
    if array.dtype != wanted:
        ints = array.dtype.kind in "iu" and wanted.kind in "iu"
        if ints and array.size:
            limits = np.iinfo(wanted)
            ints = int(array.min()) >= limits.min and int(array.max()) <= limits.max
        if not ints and not (array.dtype.kind == "f" and wanted.kind == "f"):
            raise DataError(f"'{name}' in '{path}' is {array.dtype.name}", f"give {spec.dtype}")
        with np.errstate(over="ignore"):
            array = array.astype(wanted)
    if wanted.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"'{name}' in '{path}' holds NaN or infinity", "give finite numbers")
    return np.ascontiguousarray(array)


def _labels(path: Path, name: str, array: NDArray[Any], size: int, classes: Sequence[str]) -> NDArray[np.int64]:
    """Class numbers, from numbers or names."""
    if array.shape != (size,):
        raise DataError(f"'{name}' in '{path}' is {list(array.shape)} for {size} samples", "give one label a sample")
    if array.dtype.kind == "U":
        numbers = {label: number for number, label in enumerate(classes)}
        if unknown := sorted(set(array.tolist()) - numbers.keys()):
            raise DataError(
                f"the model has no class '{unknown[0]}' ('{name}' in '{path}')",
                f"classes are {', '.join(classes[:10])}",
            )
        return np.array([numbers[label] for label in array.tolist()], np.int64)
    if array.dtype.kind not in "iu" or (size and not 0 <= int(array.min()) <= int(array.max()) < len(classes)):
        raise DataError(
            f"'{name}' in '{path}' are no class numbers from 0 to {len(classes) - 1}", "give the model's classes"
        )
    return array.astype(np.int64)
