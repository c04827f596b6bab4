"""NumPy archives of images and labels."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from toolkit.data.dataset import MAX_CLASSES, Dataset, PreprocessHint, Split, stratified_split

MAX_BYTES = 16 << 30
"""The largest archive content that is read into memory."""

_TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y"))
_TEST = (("x_test", "y_test"), ("test_images", "test_labels"), ("x_val", "y_val"), ("val_images", "val_labels"))
_NAMES = ("label_names", "class_names")


def open_npz(path: Path, *, seed: int = 0) -> Dataset:
    """Open an archive with ``x_train, y_train`` and ``x_test, y_test``, or with ``images, labels``.

    Also taken: ``train_images, train_labels`` and so on, and ``val`` for ``test``. Without a test
    pair the split is seeded and stratified. Pictures are [N, H, W], [N, H, W, 1 or 3] or
    [N, 1 or 3, H, W], either integers from 0 to 255 or floats from 0 to 1. Labels are integers
    from 0 or strings; ``label_names`` (or ``class_names``) may name the classes.

    Raises:
        DataError: it is damaged, holds pickled objects, lacks arrays, or their shapes, types or values don't fit.
    """
    arrays, held = _load(path)
    train_pair = _pair(path, arrays, _TRAIN)
    if train_pair is None:
        raise DataError(
            f"'{path}' has no pair of pictures and labels: it holds {', '.join(held[:10]) or 'nothing'}",
            "name the arrays x_train, y_train, x_test, y_test, or images and labels",
        )
    test_pair = _pair(path, arrays, _TEST)
    raw = [pair[1] for pair in (train_pair, test_pair) if pair is not None]
    names, numbers = _labels(path, arrays, raw)
    train = Split(_pixels(path, *train_pair[0]), numbers[0])
    if test_pair is not None:
        test = Split(_pixels(path, *test_pair[0]), numbers[1])
        if train.image(0).shape != test.image(0).shape:  # type: ignore[union-attr]
            raise DataError(
                f"the two splits of '{path}' have pictures of different shapes", "give them the same shape"
            )
    else:
        whole = train
        first, second = stratified_split(numbers[0], names, seed=seed)
        train, test = whole.subset(first), whole.subset(second)
    shape = train.image(0).shape  # type: ignore[union-attr]
    hint = PreprocessHint("stretch", 1 if len(shape) == 2 else 3, shape[0], shape[1])
    return Dataset(path.stem, names, train, test, hint)


Named = tuple[str, NDArray[Any]]


def _load(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays whose names mean something here, and the names of all."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(
                f"'{path}' unpacks to {size >> 30} GiB, more than {MAX_BYTES >> 30}", "give a smaller set"
            )
        with np.load(path, allow_pickle=False) as archive:
            wanted = {name for pair in (*_TRAIN, *_TEST) for name in pair} | set(_NAMES)
            held = sorted(archive.files)
            return {name: archive[name] for name in held if name in wanted}, held
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        why = "it holds pickled objects" if "allow_pickle" in str(error) else str(error)
        raise DataError(f"can't read '{path}': {why}", "write it with numpy.savez from plain arrays") from error
    except OSError as error:
        raise DataError(f"can't read '{path}': {error.strerror or error}", "check the file") from error


def _pair(
    path: Path, arrays: dict[str, NDArray[Any]], pairs: tuple[tuple[str, str], ...]
) -> tuple[Named, Named] | None:
    for images, labels in pairs:
        if images in arrays and labels in arrays:
            return (images, arrays[images]), (labels, arrays[labels])
        if images in arrays or labels in arrays:
            here, missing = (images, labels) if images in arrays else (labels, images)
            raise DataError(f"'{path}' holds '{here}' but not '{missing}'", f"add the array '{missing}'")
    return None


def _pixels(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    where = f"'{name}' of '{path}'"
    if array.ndim == 4 and array.shape[3] not in {1, 3} and array.shape[1] in {1, 3}:
        array = np.moveaxis(array, 1, -1)
    if array.ndim not in {3, 4} or (array.ndim == 4 and array.shape[3] not in {1, 3}) or 0 in array.shape:
        raise DataError(f"{where} has shape {list(array.shape)}", "pictures are [N, H, W] or [N, H, W, 3]")
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{where} is {array.dtype}", "give uint8 from 0 to 255, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    top = 1.0 if array.dtype.kind == "f" else 255.0
    if not (low >= 0 and high <= top):  # also false for NaN
        raise DataError(
            f"{where} is {array.dtype} from {low:g} to {high:g}", "give uint8 from 0 to 255, or floats from 0 to 1"
        )
    result = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), 1024):  # in parts: the float copy of a large set would not fit
        part = array[start : start + 1024]
        result[start : start + 1024] = np.rint(part * 255.0) if top == 1.0 else part
    return result


def _labels(
    path: Path, arrays: dict[str, NDArray[Any]], raw: list[Named]
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """The class names, and the labels of each split as class numbers."""
    flat = []
    for name, array in raw:
        column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if column.ndim != 1 or column.dtype.kind not in "iuU" or not len(column):
            raise DataError(
                f"'{name}' of '{path}' is {array.dtype} {list(array.shape)}",
                "labels are one integer or string an image: [N]",
            )
        flat.append(column)
    listed = next((arrays[key] for key in _NAMES if key in arrays), None)
    names = None if listed is None else tuple(str(name) for name in np.ravel(listed))
    if all(column.dtype.kind == "U" for column in flat):
        names = names or tuple(str(name) for name in np.unique(np.concatenate(flat)))
        numbers = {name: number for number, name in enumerate(names)}
        if unknown := sorted({str(label) for column in flat for label in column} - numbers.keys()):
            raise DataError(f"'{path}' has label '{unknown[0]}', which its list of names lacks", "name every class")
        return names, [np.array([numbers[str(label)] for label in column], np.int64) for column in flat]
    if any(column.dtype.kind == "U" for column in flat):
        raise DataError(f"'{path}' has numbers for one split's labels and strings for the other's", "use one kind")
    low, high = min(int(c.min()) for c in flat), max(int(c.max()) for c in flat)
    limit = MAX_CLASSES if names is None else len(names)
    if low < 0 or high >= limit:
        raise DataError(
            f"labels of '{path}' go from {low} to {high}, outside 0 to {limit - 1}", "number the classes from 0"
        )
    return names or tuple(str(number) for number in range(high + 1)), [column.astype(np.int64) for column in flat]
