"""IDX files, the format in which MNIST and Fashion-MNIST are published, gzipped or not."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from toolkit.data.dataset import MAX_CLASSES, Dataset, PreprocessHint, Split, stratified_split

MAX_BYTES = 8 << 30
"""The largest IDX content that is read into memory."""

_NAME = re.compile(r"(?:.*-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_START = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)
"""The first training labels of Fashion-MNIST as published; its file names are those of MNIST."""


def has_idx_files(folder: Path) -> bool:
    """Whether ``folder``, or ``raw/`` in it, holds IDX files by their published names."""
    return bool(_find(folder))


def open_idx(folder: Path, *, seed: int = 0) -> Dataset:
    """Open ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the ``t10k-…`` pair, each also as ``.gz``.

    Without the second pair the split of the first is seeded and stratified. Labels are the numbers,
    unless the files are Fashion-MNIST's or ``labels.txt`` beside them names one class a line.

    Raises:
        DataError: a file of a pair is missing, damaged, truncated or not IDX; a label has no name.
    """
    files = _find(folder)
    splits = {part: _read_split(folder, files, part) for part in ("train", "test") if (part, "images") in files}
    splits |= {
        part: _read_split(folder, files, part) for part, kind in files if kind == "labels" and part not in splits
    }
    everything = np.concatenate([split.labels for split in splits.values()])
    names = _names(folder, everything, splits)
    if len(splits) == 2:
        train, test = splits["train"], splits["test"]
        if train.images[0].shape != test.images[0].shape:  # type: ignore[union-attr]
            raise DataError(f"the two splits in '{folder}' have pictures of different sizes", "give one data set")
    else:
        (whole,) = splits.values()
        first, second = stratified_split(whole.labels, names, seed=seed)
        train, test = whole.subset(first), whole.subset(second)
    height, width = train.image(0).shape  # type: ignore[union-attr]
    return Dataset(folder.resolve().name, names, train, test, PreprocessHint("stretch", 1, height, width))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    The format: two zero bytes, a type byte (8: uint8), the number of dimensions, each dimension as
    a big-endian uint32, then the values, last index fastest.

    Raises:
        DataError: it is not that, is truncated, has bytes left over or is larger than 8 GiB.
    """
    again = "download it again"
    try:
        with cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
                raise DataError(f"'{path}' is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}", again)
            if magic[2] != 8:
                raise DataError(
                    f"'{path}' holds IDX type 0x{magic[2]:02x}, not unsigned bytes", "convert it to uint8"
                )
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise DataError(f"'{path}' ends inside its header", again)
            shape = struct.unpack(f">{magic[3]}I", header)
            count = math.prod(shape)
            if not 0 < count <= MAX_BYTES:
                raise DataError(
                    f"'{path}' declares {' × '.join(map(str, shape))} values", "give a file of 1 to 8 GiB"
                )
            data = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"'{path}' is truncated or damaged: {error}", again) from error
    except OSError as error:
        raise DataError(
            f"can't read '{path}': {error.strerror or error}", "check the path and permissions"
        ) from error
    if len(data) != count:
        found = f"{len(data)} of {count}" if len(data) < count else f"more than {count}"
        raise DataError(f"'{path}' declares {' × '.join(map(str, shape))} values but holds {found}", again)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """The files by (split, kind); a plain file wins over its .gz."""
    found: dict[tuple[str, str], Path] = {}
    for where in (folder, folder / "raw"):
        for path in sorted(where.iterdir(), reverse=True) if where.is_dir() else ():
            if (match := _NAME.fullmatch(path.name)) and path.is_file():
                key = ("train" if match[1] == "train" else "test", match[2])
                if key in found and found[key].name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                    raise DataError(
                        f"'{where}' holds both {found[key].name} and {path.name}", "keep one data set a folder"
                    )
                found[key] = path
        if found:
            break
    return found


def _read_split(folder: Path, files: dict[tuple[str, str], Path], part: str) -> Split:
    for kind in ("images", "labels"):
        if (part, kind) not in files:
            other = files[part, "labels" if kind == "images" else "images"]
            raise DataError(f"'{folder}' has {other.name} but not its {kind}", "put both files into the folder")
    images, labels = read_idx(files[part, "images"]), read_idx(files[part, "labels"])
    if images.ndim != 3 or 0 in images.shape:
        raise DataError(
            f"'{files[part, 'images']}' has shape {list(images.shape)}", "pictures are [count, rows, columns]"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"'{files[part, 'labels']}' has shape {list(labels.shape)} for {len(images)} pictures",
            "give the labels file that belongs to the pictures",
        )
    return Split(images, labels.astype(np.int64))


def _names(folder: Path, labels: NDArray[np.int64], splits: dict[str, Split]) -> tuple[str, ...]:
    count = int(labels.max()) + 1
    listing = next((p for p in (folder / "labels.txt", folder / "raw" / "labels.txt") if p.is_file()), None)
    if listing is not None:
        names = tuple(line.strip() for line in listing.read_text("utf-8").splitlines() if line.strip())
        if not count <= len(names) <= MAX_CLASSES:
            raise DataError(
                f"'{listing}' names {len(names)} classes, but labels go up to {count - 1}", "name every class"
            )
        return names
    train = splits.get("train")
    if train is not None and len(train) == 60_000 and tuple(train.labels[:10]) == _FASHION_START and count == 10:
        return _FASHION
    return tuple(str(number) for number in range(count))
