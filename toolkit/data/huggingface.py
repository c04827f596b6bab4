"""Data sets of Hugging Face's ``datasets``: from the hub, its cache, a folder of files, or ``save_to_disk``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.files import digest_bytes
from engines.optional import require
from engines.preprocess import ImageLike, NamedBytes, open_image
from toolkit.data.dataset import MAX_CLASSES, Dataset, LazyImages, PreprocessHint, Split, stratified_split
from toolkit.data.names import TEST_NAMES

PREFIX = "hf:"
_CHOICES = ("config", "revision", "image", "label", "train", "test")
_EXAMPLE = "hf:NAME?image=COLUMN&label=COLUMN"


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


@dataclass(frozen=True)
class Choice:
    """What follows ``hf:``.

    Attributes:
        source: a name on the hub, or a folder.
        options: those of ``?config=&revision=&image=&label=&train=&test=`` that were given.
    """

    source: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> "Choice":
        """Read ``NAME?option=value&option=value``.

        Raises:
            DataError: there is no name, or an unknown option.
        """
        source, _, query = text.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if not source or (query and not options):
            raise DataError(f"'{PREFIX}{text}' names no data set", f"write {_EXAMPLE}")
        for name, value in options.items():
            if name not in _CHOICES or not value:
                raise DataError(
                    f"'{PREFIX}{text}' has the option '{name}={value}'", f"choose from {', '.join(_CHOICES)}"
                )
        return cls(source, options)


def open_huggingface(text: str, *, seed: int = 0) -> Dataset:
    """Open ``NAME[?option=value&...]``: a data set of pictures (an Image column) and classes (a ClassLabel column).

    A folder that ``save_to_disk`` wrote and a folder of files are opened as they lie; any other name is asked of the
    hub, or of the cache where ``HF_HUB_OFFLINE=1`` is set. The columns are found by their types, and a column of
    integers or strings that is called "label" will do for the classes. The split "train" is trained on; the first of
    "test", "val", "valid" and "validation" that has labels (a hidden test set has -1) is tested on, else "train" is
    split, seeded and stratified, 80 to 20. The pictures are read when they are asked for, encoded as they lie there.

    Raises:
        MissingLibraryError: ``datasets`` is not installed.
        DataError: it can't be opened, has no such columns, or several; or labels that don't make classes.
    """
    choice = Choice.of(text)
    splits = _load(choice)
    train_name, candidates = _split_names(choice, splits)
    train_table = splits[train_name]
    image, label = _columns(choice, train_table.features)
    names, train_labels = _labels(choice, train_table, train_name, label, None)
    if (train_labels < 0).any():
        raise _unlabelled(choice, train_name)
    train = Split(_images(train_table, train_name, image, choice), train_labels)
    for name in candidates:
        _, labels = _labels(choice, splits[name], name, label, names)
        if (labels >= 0).all():
            test = Split(_images(splits[name], name, image, choice), labels)
            break
        if (labels >= 0).any() or "test" in choice.options:
            raise _unlabelled(choice, name)
    else:
        first, second = stratified_split(train.labels, names, seed=seed)
        train, test = train.subset(first), train.subset(second)
    channels = 1 if open_image(train.image(0)).mode in {"1", "L"} else 3
    return Dataset(Path(choice.source).name, names, train, test, PreprocessHint("crop", channels))


def _load(choice: Choice) -> dict[str, Any]:
    """The tables by the names of their splits."""
    library = require("datasets", "Opening a Hugging Face data set", "huggingface")
    source, options = Path(choice.source), choice.options
    try:
        if source.is_dir() and is_saved_dataset(source):
            found = library.load_from_disk(str(source))
        else:
            given = {key: options[key] for key in ("revision",) if key in options}
            found = library.load_dataset(choice.source, options.get("config"), **given)
    except Exception as error:  # the library raises its own, pyarrow's, requests' and the operating system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"can't open the Hugging Face data set '{choice.source}': {reason}",
            "check the name or folder and the connection; HF_HUB_OFFLINE=1 takes what was downloaded before",
        ) from error
    if isinstance(found, library.Dataset):
        return {"train": found}
    tables: dict[str, Any] = {str(name): table for name, table in found.items() if len(table)}
    if not tables:
        raise DataError(f"the data set '{choice.source}' is empty", "give one with pictures")
    return tables


def _split_names(choice: Choice, splits: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The split to train on, and those to test on, the best first."""
    for part in ("train", "test"):
        if (asked := choice.options.get(part)) and asked not in splits:
            raise DataError(f"'{choice.source}' has no split '{asked}'", f"it has {', '.join(splits)}")
    train = choice.options.get("train") or ("train" if "train" in splits else "")
    if not train and len(splits) == 1:
        (train,) = splits
    if not train:
        raise DataError(
            f"'{choice.source}' has no split 'train', but {', '.join(splits)}",
            "choose: hf:NAME?train=SPLIT&test=SPLIT",
        )
    asked = choice.options.get("test")
    return train, [asked] if asked else [name for name in TEST_NAMES if name in splits and name != train]


def _columns(choice: Choice, features: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the picture's and the label's column."""
    library = require("datasets", "Opening a Hugging Face data set", "huggingface")
    for part in ("image", "label"):
        if (asked := choice.options.get(part)) and asked not in features:
            raise DataError(f"'{choice.source}' has no column '{asked}'", f"it has {', '.join(features)}")
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    if not labels:
        labels = [name for name in ("label", "labels") if name in features and _plain(features[name])]
    image = choice.options.get("image") or _only(choice, "image", "pictures (Image)", images, features)
    label = choice.options.get("label") or _only(choice, "label", "classes (ClassLabel)", labels, features)
    if image not in images:
        raise DataError(f"column '{image}' of '{choice.source}' holds {features[image]}", "choose one of pictures")
    if not isinstance(features[label], library.ClassLabel) and not _plain(features[label]):
        raise DataError(f"column '{label}' of '{choice.source}' holds {features[label]}", "choose one of classes")
    return image, label


def _only(choice: Choice, option: str, what: str, found: list[str], features: Mapping[str, Any]) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"'{choice.source}' has several columns of {what}: {', '.join(found)}",
            f"choose one: {PREFIX}{choice.source}?{option}={found[0]}",
        )
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    raise DataError(f"'{choice.source}' has no column of {what}: it has {columns}", f"name it: {_EXAMPLE}")


def _plain(kind: Any) -> bool:
    """Whether a column holds integers or strings."""
    return str(getattr(kind, "dtype", "")).startswith(("int", "uint", "string", "large_string"))


def _labels(
    choice: Choice, table: Any, split: str, column: str, known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The class names (``known``, where they are settled) and the class number of each row; -1 where it has none."""
    where = f"column '{column}' of split '{split}' of '{choice.source}'"
    if column not in table.features:
        raise DataError(f"{where} is missing", "give the splits the same columns")
    values = table.select_columns([column]).with_format(None)[:][column]
    listed = getattr(table.features[column], "names", None)
    if known is not None and listed and tuple(listed) != known:
        raise DataError(f"{where} has other classes than 'train'", "give the splits the same classes")
    if values and isinstance(next((value for value in values if value is not None), 0), str):
        names = known or tuple(sorted({value for value in values if value is not None}))
        numbers = {name: number for number, name in enumerate(names)}
        if unknown := sorted(set(values) - {None, *names}):
            raise DataError(f"{where} has class '{unknown[0]}', which 'train' lacks", "give both the same classes")
        labels = np.array([-1 if value is None else numbers[value] for value in values], np.int64)
    else:
        labels = np.array([-1 if value is None else value for value in values], np.int64)
        names = known or tuple(listed or map(str, range(int(labels.max()) + 1)))
    if len(names) > MAX_CLASSES or int(labels.min()) < -1 or int(labels.max()) >= len(names):
        raise DataError(
            f"{where} goes from {int(labels.min())} to {int(labels.max())}, outside the {len(names)} classes",
            "number the classes from 0",
        )
    return names, labels


def _unlabelled(choice: Choice, split: str) -> DataError:
    return DataError(f"split '{split}' of '{choice.source}' has rows without a label", "choose a labelled split")


def _images(table: Any, split: str, column: str, choice: Choice) -> "TableImages":
    library = require("datasets", "Opening a Hugging Face data set", "huggingface")
    if column not in table.features or not isinstance(table.features[column], library.Image):
        raise DataError(f"split '{split}' of '{choice.source}' has no pictures '{column}'", "give splits of one kind")
    pictures = table.select_columns([column]).cast_column(column, library.Image(decode=False)).with_format(None)
    return TableImages(pictures, column, f"split '{split}' of '{choice.source}'", np.arange(len(table)))


class TableImages(LazyImages):
    """Encoded pictures in a column of a table on disk, which is mapped into memory.

    Args:
        table: a ``datasets.Dataset`` with this column alone, undecoded.
        column: its name.
        where: what it is called in errors.
        rows: int64 [N]: which rows, in which order.
    """

    def __init__(self, table: Any, column: str, where: str, rows: NDArray[np.int64]) -> None:
        self._table, self._column, self._where, self._rows = table, column, where, rows
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> ImageLike:
        """The encoded picture, or the path of one that lies in a file of its own; from any thread."""
        row = int(self._rows[index])
        name = f"row {row} of {self._where}"
        try:
            with self._lock:
                value = self._table[row][self._column]
        except Exception as error:  # pyarrow's, the operating system's, ...
            raise DataError(f"can't read {name}: {error}", "load or save the data set again") from error
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
        if content is not None:
            return NamedBytes(content, f"{name}{f' ({path})' if path else ''}")
        if path is None:
            raise DataError(f"{name} has no picture", "filter such rows out")
        return Path(path)

    def subset(self, indices: NDArray[np.int64]) -> "TableImages":
        """These rows, in this order."""
        return TableImages(self._table, self._column, self._where, self._rows[indices])

    def identity(self, *, strict: bool) -> bytes:
        """The size of each picture, or the name of its file, and which rows; strict as well where the table lies."""
        compute = require("pyarrow.compute", "Opening a Hugging Face data set", "huggingface")
        digest = [self._rows.tobytes(), self._column.encode()]
        for piece in self._table.data.column(self._column).chunks:
            content = piece.field("bytes")
            digest.append(repr((len(content), compute.binary_length(content).to_pylist())).encode())
            if content.null_count:
                digest.append(repr([path and Path(path).name for path in piece.field("path").to_pylist()]).encode())
        if strict:
            digest.append(repr(sorted(file["filename"] for file in self._table.cache_files)).encode())
        return digest_bytes(*digest).encode()
