"""The folders that a cache is made of: each written whole or not at all, read, measured, removed."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.file_stamp import BOOT

FORMAT = 1
RECORD = "entry.json"
NAME = re.compile(r"[0-9a-f]{64}")
"""The names of entries: nothing else in a cache folder is ever touched."""

_UNFINISHED = ".part-"
_TURNS = 3
"""So often an entry is put in the place of another; where others are faster every time, theirs is as good."""
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished entry belongs to no process that still runs."""


@dataclass(frozen=True)
class Entry:
    """Something in the cache folder.

    Attributes:
        folder: where its files lie.
        kind: "engines", "timing", and so on.
        what: for people: "model.fp16.rtx.engine".
        key: what it was made from.
        facts: what is known of it.
        files: file name → digest, of the files that never change.
        size: bytes on disk.
        used: when it was last used, in seconds since the epoch.
    """

    folder: Path
    kind: str
    what: str
    key: Mapping[str, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, str]
    size: int
    used: float

    def path(self, name: str) -> Path:
        """Where a file lies. Its digest is in its name: nobody reads another process's newer file for this one."""
        return self.folder / _file_name(name, self.files[name])


def _file_name(name: str, digest: str) -> str:
    return f"{name}.{digest.removeprefix('sha256:')[:16]}"


def read_entry(place: Path) -> Entry | None:
    """The entry in a folder, its files unchecked; None where it is damaged or isn't there."""
    try:
        record = json.loads((place / RECORD).read_bytes())
        if record["format"] != FORMAT:
            return None
        files = {str(name): str(digest) for name, digest in record["files"].items()}
        return Entry(
            folder=place,
            kind=place.parent.name,
            what=str(record["what"]),
            key=dict(record["key"]),
            facts=dict(record["facts"]),
            files=files,
            size=size_of(place),
            used=used_at(place),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_entry(
    place: Path, what: str, key: Mapping[str, Any], facts: Mapping[str, Any], files: Mapping[str, tuple[Any, str]]
) -> None:
    """Write an entry, in the place of what was there.

    Args:
        place: its folder.
        what: for people.
        key: what it was made from.
        facts: what is known of it.
        files: file name → bytes and digest.

    Raises:
        OSError: the folder can't be written, or the disk is full; nothing is left behind.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
    try:
        for name, (data, digest) in files.items():
            _write(folder / _file_name(name, digest), data)
        digests = {name: digest for name, (_, digest) in files.items()}
        record = {"format": FORMAT, "what": what, "key": key, "facts": facts, "files": digests}
        _write(folder / RECORD, json.dumps(record).encode())
        for turn in range(_TURNS):
            try:
                folder.rename(place)
                break
            except OSError:  # an older one is there, or what another process has just put there
                if turn == _TURNS - 1 and not place.exists():
                    raise
                if turn < _TURNS - 1:
                    remove_entry(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: Any) -> None:
    with path.open("wb") as file:
        file.write(data)
        if BOOT is None:  # digests outlive a power failure then, so the content has to
            file.flush()
            os.fsync(file.fileno())


def remove_entry(place: Path) -> bool:
    """Remove an entry at once for every other process; whether it is gone."""
    try:
        bin_ = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
        try:
            place.rename(bin_ / place.name)
        finally:
            shutil.rmtree(bin_, ignore_errors=True)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left unfinished."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_UNFINISHED}*"):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def places(folder: Path) -> Iterator[Path]:
    """The entries' folders of one kind."""
    with contextlib.suppress(OSError):
        for place in folder.iterdir():
            if NAME.fullmatch(place.name) and place.is_dir():
                yield place


def size_of(place: Path) -> int:
    """Bytes of an entry's files; 0 where it isn't there any more."""
    total = 0
    with contextlib.suppress(OSError):
        for item in os.scandir(place):
            total += item.stat().st_size
    return total


def used_at(place: Path) -> float:
    """When an entry was last used, in seconds since the epoch; 0 where it isn't whole."""
    try:
        return (place / RECORD).stat().st_mtime
    except OSError:
        return 0.0


def touch(place: Path) -> None:
    """Note that an entry was used."""
    with contextlib.suppress(OSError):
        os.utime(place / RECORD)
