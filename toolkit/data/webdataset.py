"""WebDataset: pictures and their labels side by side in tar files.

Files whose paths are the same up to the first dot of their names make a sample: ``a/0001.jpg`` and ``a/0001.cls``.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.preprocess import open_image
from engines.progress import QUIET, Progress
from toolkit.data.dataset import MAX_CLASSES, Dataset, PreprocessHint, Split, stratified_split
from toolkit.data.names import TEST_NAMES, read_names
from toolkit.data.shards import Member, Shard, ShardImages, find_shards, members_of

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm"})
LABELS = ("cls", "json", "txt")
"""Where a label is looked for, the first one that a sample has; of a .json its field "label"."""

_LISTINGS = ("labels.txt", "classes.txt")
_LAYOUT = "each sample is a picture and its label: 0001.jpg and 0001.cls (a class number)"


def is_webdataset(source: Path) -> bool:
    """Whether a path is a tar (plain or packed), a pattern of tars, or a folder (or one with ``train/``) of tars."""
    if source.is_dir():
        return any(any(folder.glob("*.tar")) for folder in (source, *_split_folders(source).values()))
    if source.exists():
        return source.name.lower().endswith((".tar", ".tar.gz", ".tgz"))
    return ".tar" in source.name and _is_pattern(source)


def _is_pattern(source: Path) -> bool:
    return any(sign in str(source) for sign in "{*?[")


def open_webdataset(source: Path, *, seed: int = 0, progress: Progress = QUIET) -> Dataset:
    """Open a tar, a pattern of tars, or a folder of tars, also below ``train/`` and ``test/`` (or ``val/``).

    Without such folders the splits are told by the shards' names (``imagenet-train-000001.tar``); where these don't
    say, the split is seeded and stratified, 80 to 20. Every shard is read through once for its index and the labels.
    Class numbers are named by ``labels.txt`` beside the shards, a name a line.

    Raises:
        DataError: no shard, a damaged one, a sample without picture or label, a key twice in a shard, or labels that
            don't make classes.
    """
    found = _shards(source)
    everything = [path for paths in found.values() for path in paths]
    progress.begin(f"Reading the index of {source.name}", len(everything), "shards")
    indices = {}
    for part, paths in found.items():
        index = _Index()
        for path in paths:
            index.add(Shard.of(path))
            progress.advance()
        if not index.places:
            raise DataError(f"'{paths[0].parent}' has shards without a sample", _LAYOUT)
        indices[part] = index
    progress.end()
    names, numbers = _classes(indices, everything[0], source)
    splits = {part: Split(index.images(), numbers[part]) for part, index in indices.items()}
    if len(splits) == 2:
        train, test = splits["train"], splits["test"]
    else:
        (whole,) = splits.values()
        first, second = stratified_split(whole.labels, names, seed=seed)
        train, test = whole.subset(first), whole.subset(second)
    channels = 1 if open_image(train.image(0)).mode in {"1", "L"} else 3
    return Dataset(_name(source), names, train, test, PreprocessHint("crop", channels))


@dataclass
class _Index:
    """The samples of one split, in the order of the shards: 32 bytes each.

    Attributes:
        shards: the files.
        places: of each sample the number of its shard, and its picture's offset and size.
        codes: of each sample the number of its label in ``known``.
        known: each label that occurs.
    """

    shards: list[Shard] = field(default_factory=list)
    places: "array[int]" = field(default_factory=lambda: array("q"))
    codes: "array[int]" = field(default_factory=lambda: array("q"))
    known: dict[int | str, int] = field(default_factory=dict)

    def add(self, shard: Shard) -> None:
        """Read a shard through."""
        number = len(self.shards)
        self.shards.append(shard)
        for picture, label in _samples(shard):
            self.places.extend((number, picture.offset, picture.size))
            self.codes.append(self.known.setdefault(label, len(self.known)))

    def images(self) -> ShardImages:
        """The pictures, read when they are asked for."""
        return ShardImages(tuple(self.shards), np.array(self.places, np.int64).reshape(-1, 3))

    def labels(self, numbers: Mapping[int | str, int]) -> NDArray[np.int64]:
        """The class number of each sample, int64 [N], given that of each label."""
        return np.array([numbers[label] for label in self.known], np.int64)[np.array(self.codes, np.int64)]


def _samples(shard: Shard) -> Iterator[tuple[Member, int | str]]:
    """Each sample's picture and label."""
    seen: set[str] = set()
    parts: dict[str, Member] = {}
    current: str | None = None
    for member in members_of(shard, _is_label):
        folder, slash, name = member.name.rpartition("/")
        if name.startswith((".", "__")):  # a Mac's resource forks, WebDataset's own notes
            continue
        stem, _, extension = name.partition(".")
        key = folder + slash + stem
        if key != current:
            if current is not None:
                yield _sample(shard, current, parts)
            if key in seen:
                raise DataError(
                    f"sample '{key}' is in shard '{shard}' twice, or its files lie apart",
                    "give each sample a key of its own",
                )
            seen.add(key)
            current, parts = key, {}
        if extension.lower() in parts:
            raise DataError(f"'{member.name}' is in shard '{shard}' twice", "give each sample a key of its own")
        parts[extension.lower()] = member
    if current is not None:
        yield _sample(shard, current, parts)


def _is_label(name: str) -> bool:
    return name.rpartition("/")[2].partition(".")[2].lower() in LABELS


def _sample(shard: Shard, key: str, parts: dict[str, Member]) -> tuple[Member, int | str]:
    where = f"sample '{key}' of shard '{shard}'"
    pictures = sorted(PICTURES & parts.keys())
    if len(pictures) != 1:
        what = f"has several pictures ({', '.join(pictures)})" if pictures else "has no picture"
        raise DataError(f"{where} {what}: it holds {', '.join(parts)}", _LAYOUT)
    for kind in LABELS:
        content = parts[kind].content if kind in parts else None
        if content is None:
            continue
        label = _label(content, kind, where)
        if label is not None:
            return parts[pictures[0]], label
    raise DataError(f"{where} has no label: it holds {', '.join(parts)}", _LAYOUT)


def _label(content: bytes, kind: str, where: str) -> int | str | None:
    """A class number or name; None where a .json has no field for it."""
    try:
        text = content.decode("utf-8")
        value = json.loads(text) if kind == "json" else text.strip()
    except ValueError as error:
        raise DataError(f"the .{kind} of {where} can't be read: {error}", "write it as UTF-8 text") from error
    if kind == "json":
        value = value.get("label") if isinstance(value, dict) else value
        if value is None:
            return None
    elif value.lstrip("-").isdecimal():
        value = int(value)
    elif kind == "cls":
        raise DataError(f"the .cls of {where} is '{value[:40]}'", "a .cls holds a class number")
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"the label of {where} is {str(value)[:40]!r}", "give a class number or a class name")
    return value


def _classes(
    indices: dict[str, _Index], first: Path, source: Path
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The class names, and the labels of each split as class numbers."""
    everything = {label for index in indices.values() for label in index.known}
    strings, integers = ({label for label in everything if isinstance(label, kind)} for kind in (str, int))
    if strings and integers:
        raise DataError(f"some labels of '{source}' are numbers and others are names", "use one kind")
    listing = next(
        (p for d in (first.parent, first.parent.parent) for n in _LISTINGS if (p := d / n).is_file()), None
    )
    names = read_names(listing) if listing else None
    if strings:
        names = names or tuple(sorted(map(str, strings)))
        if unknown := sorted(strings - set(names), key=str):
            raise DataError(f"'{source}' has label '{unknown[0]}', which '{listing}' lacks", "name every class")
        if len(names) > MAX_CLASSES:
            raise DataError(f"'{source}' has {len(names)} different labels", f"give up to {MAX_CLASSES} classes")
        numbers: dict[int | str, int] = {name: number for number, name in enumerate(names)}
    else:
        low, high = min(map(int, integers)), max(map(int, integers))
        limit = MAX_CLASSES if names is None else len(names)
        if low < 0 or high >= limit:
            named = f", which '{listing}' names" if listing else ""
            raise DataError(
                f"labels of '{source}' go from {low} to {high}, outside 0 to {limit - 1}{named}",
                "number the classes from 0",
            )
        names = names or tuple(str(number) for number in range(high + 1))
        numbers = {label: int(label) for label in integers}
    return names, {part: index.labels(numbers) for part, index in indices.items()}


def _split_folders(folder: Path) -> dict[str, Path]:
    """``train`` and ``test`` to the folders that hold their shards."""
    tests = (folder / name for name in TEST_NAMES)
    found = {"train": folder / "train", "test": next((test for test in tests if test.is_dir()), folder / "test")}
    return {part: where for part, where in found.items() if where.is_dir()}


def _shards(source: Path) -> dict[str, list[Path]]:
    """The shards of "train" and "test", or of "all"."""
    if not source.is_dir():
        return _by_name(
            sorted(set(find_shards(str(source)))), source
        )  # a folder's order, so that the split is the same
    if here := sorted(source.glob("*.tar")):
        return _by_name(here, source)
    found = {part: sorted(where.glob("*.tar")) for part, where in _split_folders(source).items()}
    for part, where in _split_folders(source).items():
        if not found[part]:
            raise DataError(f"'{where}' holds no shards", "put .tar files there, or remove the folder")
    if "train" not in found:
        test = _split_folders(source)["test"]
        raise DataError(
            f"'{source}' has {test.name}/ but no train/", f"add train/, or name that folder itself: {test}"
        )
    return found


def _by_name(shards: Sequence[Path], source: Path) -> dict[str, list[Path]]:
    """The shards by the split in their names; one kind alone, or none, makes one set of all."""
    parts = {shard: _part(shard.stem) for shard in shards}
    kinds = set(parts.values())
    if kinds <= {"train"} or "train" not in kinds:
        return {"all": list(shards)}
    if "" in kinds:
        odd = next(shard for shard, kind in parts.items() if not kind)
        raise DataError(
            f"'{odd}' doesn't say whether it is of train or test, other shards of '{source}' do", "name all, or none"
        )
    chosen = next(name for name in TEST_NAMES if name in kinds)
    return {
        "train": [shard for shard, kind in parts.items() if kind == "train"],
        "test": [shard for shard, kind in parts.items() if kind == chosen],
    }


def _part(stem: str) -> str:
    """The split that a shard's name tells: one of its words between dashes, underscores and dots."""
    words = stem.lower().replace("_", "-").replace(".", "-").split("-")
    return next((word for word in words if word == "train" or word in TEST_NAMES), "")


def _name(source: Path) -> str:
    """A folder's or a tar's own; a pattern is called by the folder that it lies in."""
    if source.exists():
        return source.resolve().name.removesuffix(".tar")
    plain = next((folder for folder in source.parents if not _is_pattern(folder)), source)
    return plain.resolve().name
