"""Image folders: one folder a class, with or without splits above them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from engines.errors import DataError
from engines.optional import require
from engines.preprocess import open_image
from engines.progress import QUIET, Progress
from toolkit.data.dataset import Dataset, PreprocessHint, Split, stratified_split
from toolkit.data.names import TEST_NAMES

SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif",
})  # fmt: skip
"""What counts as a picture, in any case. One that the Pillow here can't decode is named, not passed over."""

LAYOUT = "put the pictures of each class into a folder of its own: DATA/cat/1.jpg, DATA/dog/1.jpg"


def open_folder(root: Path, *, seed: int = 0, progress: Progress = QUIET) -> Dataset:
    """Open ``root/class/*.jpg`` (any of :data:`SUFFIXES`), or the same below ``train/`` and ``test/`` (or ``val/``).

    Class numbers follow the sorted folder names. Without a test folder the split is seeded and
    stratified, 80 to 20. Hidden files and folders are passed over. Every picture's header and end
    are looked at now, and what looks cut off is decoded, so that a damaged file stops the work
    before it begins instead of hours later.

    Raises:
        DataError: no pictures, an empty class, a test class that train lacks, or damaged pictures.
    """
    folders = {folder.name: folder for folder in _folders(root)}
    train_root = folders.get("train")
    test_root = next((folders[name] for name in TEST_NAMES if name in folders), None)
    if train_root is None and test_root is not None and not _pictures(test_root):
        raise DataError(
            f"'{root}' has {test_root.name}/ but no train/", f"add train/, or name that folder itself: {test_root}"
        )
    if train_root is None or (test_root is None and _pictures(train_root)):  # a class that is called "train"
        names, images, labels = _scan(root)
        _check(images, root, progress)
        train, test = stratified_split(labels, names, seed=seed)
        whole = Split(images, labels)
        return _dataset(root, names, whole.subset(train), whole.subset(test))
    names, train_images, train_labels = _scan(train_root)
    if test_root is None:
        _check(train_images, root, progress)
        train, test = stratified_split(train_labels, names, seed=seed)
        whole = Split(train_images, train_labels)
        return _dataset(root, names, whole.subset(train), whole.subset(test))
    test_names, test_images, test_labels = _scan(test_root)
    if extra := sorted(set(test_names) - set(names)):
        raise DataError(
            f"'{test_root}' has class '{extra[0]}', which '{train_root}' lacks", "give both the same classes"
        )
    _check(tuple(chain(train_images, test_images)), root, progress)
    order = np.array([names.index(name) for name in test_names], np.int64)
    return _dataset(root, names, Split(train_images, train_labels), Split(test_images, order[test_labels]))


def pictures_below(folder: Path) -> Iterator[Path]:
    """Every picture in ``folder`` and the folders below it: a folder's own in sorted order, then its folders'.

    They are found while they are asked for; what is held at a time is the names in one folder.

    Raises:
        DataError: a folder can't be read.
    """
    for where, names in _walk(folder):
        for name in sorted(names):
            yield Path(where, name)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from ``folder`` on in a stable order, with the names of the pictures in it."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"can't read '{error.filename}': {error.strerror}", "check its permissions") from error

    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield where, [name for name in files if _is_picture(name)]


def _dataset(root: Path, names: tuple[str, ...], train: Split, test: Split) -> Dataset:
    with require("PIL.Image", "Decoding images", "data").open(train.image(0)) as first:
        channels = 1 if first.mode in {"1", "L", "I"} or first.mode.startswith("I;16") else 3
    return Dataset(root.resolve().name, names, train, test, PreprocessHint("crop", channels))


def _scan(root: Path) -> tuple[tuple[str, ...], tuple[Path, ...], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    folders = _folders(root)
    if not folders:
        if loose := _pictures(root):
            raise DataError(f"'{root}' has {len(loose)} pictures but no class folders", LAYOUT)
        raise DataError(f"'{root}' holds no pictures", LAYOUT)
    found = [_pictures(folder) for folder in folders]
    if not any(found):
        raise DataError(f"no folder in '{root}' holds pictures ({', '.join(sorted(SUFFIXES))})", LAYOUT)
    for folder, pictures in zip(folders, found, strict=True):
        if not pictures:
            raise DataError(
                f"class folder '{folder}' holds no pictures ({', '.join(sorted(SUFFIXES))})",
                "add pictures or remove the folder",
            )
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(pictures) for pictures in found])
    return tuple(folder.name for folder in folders), tuple(chain.from_iterable(found)), labels


def _folders(root: Path) -> list[Path]:
    here = sorted(p for p in root.iterdir() if not p.name.startswith((".", "__MACOSX")))
    if lost := next((p for p in here if p.is_symlink() and not p.exists()), None):
        raise DataError(f"'{lost}' is a link that leads nowhere", "mend or remove it")
    return [p for p in here if p.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_picture(p.name) and not p.is_dir())


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def _check(images: Sequence[Path], root: Path, progress: Progress) -> None:
    """Raise one error for all damaged pictures, naming the first."""
    progress.begin(f"Checking the pictures of {root.name}", len(images), "pictures")
    bad: list[DataError] = []
    with ThreadPoolExecutor(2, thread_name_prefix="toolkit-check") as pool:
        for start in range(0, len(images), 256):
            part = images[start : start + 256]
            bad += [error for error in pool.map(_problem, part) if error]
            progress.advance(len(part))
    progress.end()
    if bad:
        more = f" (and {len(bad) - 1} more damaged pictures)" if len(bad) > 1 else ""
        raise DataError(bad[0].cause + more, bad[0].remedy)


def _problem(path: Path) -> DataError | None:
    """What is wrong with a picture, without decoding one that looks whole."""
    image = require("PIL.Image", "Decoding images", "data")
    try:
        with image.open(path) as picture:
            kind, pixels = picture.format, picture.width * picture.height
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64))
            tail = file.read()
        if kind in _ENDS and _ENDS[kind] in tail and pixels < 2**24:
            return None
    except Exception:  # noqa: S110 - whatever it is, decoding it says it better
        pass
    try:
        open_image(path)
    except DataError as error:
        return error
    return None


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What the last bytes of a complete file hold."""


def existing_pictures(paths: Iterable[Path]) -> Iterator[Path]:
    """The given files as they are, and the pictures in and below the given folders, in a stable order.

    They are found while they are asked for, so that any number of them takes the memory of one folder's names.

    Raises:
        DataError: a folder holds no pictures or can't be read.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        empty = True
        for picture in pictures_below(path):
            empty = False
            yield picture
        if empty:
            raise _no_pictures(path)


def count_pictures(paths: Iterable[Path]) -> int:
    """How many :func:`existing_pictures` finds; the same errors."""
    count = 0
    for path in paths:
        below = sum(len(names) for _, names in _walk(path)) if path.is_dir() else 1
        if not below:
            raise _no_pictures(path)
        count += below
    return count


def _no_pictures(folder: Path) -> DataError:
    return DataError(f"'{folder}' holds no pictures", f"pictures are {', '.join(sorted(SUFFIXES))}")
