"""The tar files of a WebDataset: which there are, where in them each file lies, and reading one of these.

Only the index is held in memory, 24 bytes a picture. Pictures are read from anywhere in the shards when they are
asked for, so that an order over all of them is as random as one of files in a folder.
"""

import glob
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.files import digest_bytes
from engines.preprocess import MAX_BYTES, NamedBytes
from toolkit.data.dataset import LazyImages
from toolkit.data.tar import BLOCK, Entry, TarError, entries

_BRACES = re.compile(r"\{([^{}]*)\}")
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"\x04\x22\x4d\x18")
"""How gzip, zstd, bzip2, xz and lz4 begin."""

_MOST_LABEL = 1 << 20
_MOST_SHARDS = 1_000_000
_AGAIN = "write or copy it again"


@dataclass(frozen=True)
class Shard:
    """A tar file as it was when it was indexed."""

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "Shard":
        """The file's size in bytes and the time of its last change in nanoseconds.

        Raises:
            DataError: it isn't there or can't be read.
        """
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(
                f"can't read shard '{path}': {error.strerror}", "give all shards of the data set"
            ) from error
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"shard '{path}' is not a file", "give .tar files")
        return cls(path, facts.st_size, facts.st_mtime_ns)

    def __str__(self) -> str:
        return str(self.path)


def find_shards(pattern: str) -> list[Path]:
    """The shards that a pattern names: ``data/{000000..000009}.tar``, ``{train,val}-0.tar``, ``shards/*.tar``.

    Each brace is expanded as a shell does it, and every name that comes out has to exist; then ``*``, ``?`` and
    ``[...]`` are matched, in sorted order.

    Raises:
        DataError: a shard is missing, a range is backwards, or nothing matches.
    """
    found: list[Path] = []
    for name in itertools.islice(_expand(pattern), _MOST_SHARDS):
        if Path(name).exists():
            found.append(Path(name))
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name))  # noqa: PTH207 - Path's takes no absolute pattern
            if not matches:
                raise DataError(f"no shard matches '{name}'", "check the pattern and the folder")
            found += map(Path, matches)
        else:
            raise DataError(f"shard '{name}' of '{pattern}' does not exist", "give all shards, or a narrower pattern")
    return found


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in _choices(match[1], pattern):
        yield from _expand(pattern[: match.start()] + choice + pattern[match.end() :])


def _choices(inside: str, pattern: str) -> Iterator[str]:
    first, dots, last = inside.partition("..")
    if not dots:
        yield from inside.split(",")
        return
    if not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
        raise DataError(f"'{{{inside}}}' in '{pattern}' is no range of shards", "write it like {000000..000009}")
    width = len(first) if first.startswith("0") else 0
    yield from (str(number).zfill(width) for number in range(int(first), int(last) + 1))


@dataclass(frozen=True)
class Member:
    """A file in a shard.

    Attributes:
        name: with its folders.
        offset, size: where its content begins and how many bytes it has.
        content: what is in it, where that was asked for.
    """

    name: str
    offset: int
    size: int
    content: bytes | None = None


def members_of(shard: Shard, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The plain files in a shard, in their order.

    Args:
        shard: the file.
        wanted: told a name, whether the content is to be read too.

    Raises:
        DataError: it is no tar, is packed, cut off or damaged, holds links, or a wanted file of more than 1 MiB.
    """
    try:
        with shard.path.open("rb") as file:
            start = file.read(6)
            if start.startswith(_PACKED):
                raise DataError(
                    f"shard '{shard}' is compressed, so that no picture can be read from the midst of it",
                    "unpack it to a plain .tar (gunzip, unzstd, ...): the pictures in it are compressed themselves",
                )
            if not start:
                raise DataError(f"shard '{shard}' is empty", _AGAIN)
            for found in entries(file, shard.size):
                if not found.plain:
                    raise DataError(
                        f"'{found.name}' in shard '{shard}' is a link or a sparse file",
                        "write the shard with the files themselves",
                    )
                yield _member(file, shard, found, wanted)
    except TarError as error:
        raise DataError(f"shard '{shard}' is cut off, damaged or not a tar: {error}", _AGAIN) from error
    except OSError as error:
        raise DataError(f"can't read shard '{shard}': {error.strerror}", "check the file") from error


def _member(file: BinaryIO, shard: Shard, found: Entry, wanted: Callable[[str], bool]) -> Member:
    if not wanted(found.name):
        return Member(found.name, found.offset, found.size)
    if found.size > _MOST_LABEL:
        raise DataError(f"'{found.name}' in shard '{shard}' has {found.size} bytes", "a label has up to 1 MiB")
    file.seek(found.offset)
    return Member(found.name, found.offset, found.size, file.read(found.size))


def read_at(shard: Shard, offset: int, size: int) -> NamedBytes:
    """The content of a file in a shard, called by its name there.

    Raises:
        DataError: the shard is another than was indexed, or can't be read.
    """
    try:
        with shard.path.open("rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            if (facts.st_size, facts.st_mtime_ns) != (shard.size, shard.changed):
                raise DataError(
                    f"shard '{shard}' was replaced while it was in use", "start again when nothing writes to it"
                )
            file.seek(offset - BLOCK)
            data = file.read(BLOCK + size)
            while data is not None and len(data) < BLOCK + size and (more := file.read(BLOCK + size - len(data))):
                data += more
    except OSError as error:
        raise DataError(f"can't read shard '{shard}': {error.strerror}", "check the file") from error
    name = data[:100].rstrip(b"\0").decode("utf-8", "replace")
    if len(data) != BLOCK + size:
        raise DataError(f"shard '{shard}' ends within '{name}'", _AGAIN)
    return NamedBytes(data[BLOCK:], f"'{name}' of shard '{shard}'")


class ShardImages(LazyImages):
    """Encoded pictures in shards.

    Args:
        shards: the files.
        places: int64 [N, 3]: of each picture the number of its shard, the offset in bytes and the size in bytes.
    """

    def __init__(self, shards: tuple[Shard, ...], places: NDArray[np.int64]) -> None:
        self._shards, self._places = shards, places

    def __len__(self) -> int:
        return len(self._places)

    def image(self, index: int) -> NamedBytes:
        """The encoded picture, read now; from any thread."""
        number, offset, size = (int(value) for value in self._places[index])
        if size > MAX_BYTES:
            raise DataError(
                f"a picture of {size >> 20} MiB at byte {offset} of shard '{self._shards[number]}' is too large",
                f"give pictures of up to {MAX_BYTES >> 20} MiB",
            )
        return read_at(self._shards[number], offset, size)

    def subset(self, indices: NDArray[np.int64]) -> "ShardImages":
        """These pictures, in this order."""
        return ShardImages(self._shards, self._places[indices])

    def identity(self, *, strict: bool) -> bytes:
        """The shards' names and sizes (paths and times, when strict) and the pictures' places."""
        shards = [
            (str(shard.path), shard.size, shard.changed) if strict else (shard.path.name, shard.size)
            for shard in self._shards
        ]
        return digest_bytes(repr(shards).encode(), self._places.tobytes()).encode()
