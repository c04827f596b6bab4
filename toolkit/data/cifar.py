"""CIFAR-10 and CIFAR-100 as published: the binary and the Python version, unpacked or still in their ``.tar.gz``."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from toolkit.data.dataset import Dataset, PreprocessHint, Split
from toolkit.data.pickled import read_plain_pickle

SIDE = 32
PIXELS = 3 * SIDE * SIDE
"""Bytes of a picture: 32×32 of red, then of green, then of blue, each row by row."""

MOST_PICTURES = 50_000
"""In one published file."""

_AGAIN = "unpack or download the published archive again"


@dataclass(frozen=True)
class _Kind:
    """One of the four published forms.

    Attributes:
        name: of the data set.
        root: the folder in its archive.
        train, test: the files' names, in order.
        names: the file with the names of the classes.
        label_bytes: before each picture, of which the last one is the class; 0 where the files are pickles.
    """

    name: str
    root: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that has to be there."""
        return (*self.train, self.test, self.names)


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
_KINDS = (
    _Kind(
        "cifar-10", "cifar-10-batches-bin", tuple(f"{f}.bin" for f in _FIVE), "test_batch.bin", "batches.meta.txt", 1
    ),
    _Kind("cifar-100", "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 2),
    _Kind("cifar-10", "cifar-10-batches-py", _FIVE, "test_batch", "batches.meta", 0),
    _Kind("cifar-100", "cifar-100-python", ("train",), "test", "meta", 0),
)

_Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


def find_cifar(folder: Path) -> Path | None:
    """Where CIFAR files lie by their published names: ``folder``, or the published folder in it; None without any."""
    for where in (folder, *(folder / kind.root for kind in _KINDS)):
        if any(_train_files(where, kind) for kind in _KINDS):
            return where
    return None


def is_cifar_archive(path: Path) -> bool:
    """Whether a tar, packed or not, is a published CIFAR archive, by the first names in it."""
    try:
        with tarfile.open(path, "r|*") as archive:
            member = archive.next()
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        return False  # who opens it next says it better
    return member is not None and PurePosixPath(member.name).parts[:1] in {(kind.root,) for kind in _KINDS}


def open_cifar(source: Path) -> Dataset:
    """Open a folder of unpacked files, or an archive, which is read from start to end without unpacking it.

    The training batches and the test batch stay as they are published; CIFAR-100 is taken by its 100 fine classes.
    The pictures are held in memory, 184 MB of them. The Python version is read without running anything in it.

    Raises:
        DataError: a file is missing, truncated or damaged, or a label has no name.
    """
    if source.is_dir():
        kind = next(kind for kind in _KINDS if _train_files(source, kind))
        found = _read_all(_in_folder(source, kind), kind)
    else:
        kind, found = _from_archive(source)
    if missing := [
        name for name in kind.files if name not in found.pictures and not (name == kind.names and found.names)
    ]:
        raise DataError(f"'{source}' lacks {missing[0]} of {kind.name}", _AGAIN)
    names = found.names
    for name, (_, labels) in found.pictures.items():
        if int(labels.max()) >= len(names) or int(labels.min()) < 0:
            raise DataError(
                f"labels of '{name}' in '{source}' go from {int(labels.min())} to {int(labels.max())}, "
                f"outside the {len(names)} classes that {kind.names} names",
                _AGAIN,
            )
    parts = [found.pictures[name] for name in kind.train]
    train = Split(np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts]))
    return Dataset(
        kind.name, names, train, Split(*found.pictures[kind.test]), PreprocessHint("stretch", 3, SIDE, SIDE)
    )


@dataclass
class _Found:
    """What has been read: the pictures of each file, and the classes' names."""

    pictures: dict[str, _Pictures]
    names: tuple[str, ...] = ()


_File = tuple[str, int, IO[bytes]]
"""A file's name, its size in bytes and its content."""


def _train_files(where: Path, kind: _Kind) -> bool:
    """Whether a training file and another one of the kind are there: a lone ``train`` could be anything."""
    here = [name for name in kind.files if (where / name).is_file()]
    return any(name in kind.train for name in here) and (len(here) > 1 or kind.label_bytes == 1)


def _in_folder(where: Path, kind: _Kind) -> Iterator[_File]:
    for name in kind.files:
        path = where / name
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                yield str(path), path.stat().st_size, file
        except OSError as error:
            raise DataError(f"can't read '{path}': {error.strerror}", "check its permissions") from error


def _from_archive(path: Path) -> tuple[_Kind, _Found]:
    try:
        with tarfile.open(path, "r|*") as archive:
            first = archive.next()
            root = PurePosixPath(first.name).parts[0] if first else ""
            kind = next(kind for kind in _KINDS if kind.root == root)

            def members() -> Iterator[_File]:
                member = first
                while member is not None:
                    name = PurePosixPath(member.name)
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None and name.name in kind.files and len(name.parts) == 2:
                        yield f"{path}/{name}", member.size, content
                    member = archive.next()

            return kind, _read_all(members(), kind)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is truncated or damaged: {error}", "download it again") from error
    except OSError as error:
        raise DataError(f"can't read '{path}': {error.strerror or error}", "download it again") from error


def _read_all(files: Iterator[_File], kind: _Kind) -> _Found:
    found = _Found({})
    for label, size, file in files:
        name = PurePosixPath(label).name
        if name != kind.names:
            read = _read_binary if kind.label_bytes else _read_pickle
            found.pictures[name] = read(label, size, file, kind)
        elif kind.label_bytes:
            text = file.read(1 << 16).decode("utf-8", "replace")
            found.names = tuple(line.strip() for line in text.splitlines() if line.strip())
        else:
            found.names = _names(label, read_plain_pickle(label, file), kind)
    return found


def _read_binary(label: str, size: int, file: IO[bytes], kind: _Kind) -> _Pictures:
    record = kind.label_bytes + PIXELS
    count, rest = divmod(size, record)
    if rest or not 0 < count <= MOST_PICTURES:
        raise DataError(
            f"'{label}' has {size} bytes, which are no whole pictures of {record} bytes (up to {MOST_PICTURES})",
            _AGAIN,
        )
    images, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty(count, np.int64)
    for start in range(0, count, 1000):
        part = min(1000, count - start)
        data = file.read(part * record)
        if len(data) != part * record:
            raise DataError(f"'{label}' ends after {start * record + len(data)} of {size} bytes", _AGAIN)
        rows = np.frombuffer(data, np.uint8).reshape(part, record)
        labels[start : start + part] = rows[:, kind.label_bytes - 1]
        images[start : start + part] = _interleaved(rows[:, kind.label_bytes :])
    return images, labels


def _read_pickle(label: str, size: int, file: IO[bytes], kind: _Kind) -> _Pictures:
    if size > MOST_PICTURES * (PIXELS + 256):
        raise DataError(f"'{label}' has {size} bytes, more than a file of {kind.name}", _AGAIN)
    value = read_plain_pickle(label, file)
    field = b"labels" if kind.name == "cifar-10" else b"fine_labels"
    data, numbers = (value.get(b"data"), value.get(field)) if isinstance(value, dict) else (None, None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise DataError(f"'{label}' holds no pictures of {PIXELS} bytes", _AGAIN)
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < MOST_PICTURES for n in numbers):
        numbers = []
    if not len(data) == len(numbers) > 0:
        raise DataError(f"'{label}' holds no label for each of its {len(data)} pictures", _AGAIN)
    return _interleaved(data), np.array(numbers, np.int64)


def _names(label: str, value: object, kind: _Kind) -> tuple[str, ...]:
    field = b"label_names" if kind.name == "cifar-10" else b"fine_label_names"
    names = value.get(field) if isinstance(value, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"'{label}' names no classes", _AGAIN)
    return tuple(name.decode("utf-8", "replace") for name in names)


def _interleaved(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, 3072] of planes to [N, 32, 32, 3]."""
    return np.ascontiguousarray(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
