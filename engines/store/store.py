"""The cache folder: what took long to make, found again by the digest of what it was made from.

::

    $TOOLKIT_CACHE                    else $XDG_CACHE_HOME/onnx-tensorrt-toolkit, else ~/.cache/onnx-tensorrt-toolkit
      engines/<key>/                  a plan with its facts, by typed graph, library and options
      graphs/<key>/                   what is known of a typed graph, so that it needn't be parsed again
      timing/<key>/                   TensorRT's timing cache, by release and GPU
      runtime/<key>/                  the kernels that TensorRT for RTX compiled, by plan, release and GPU
      digests/<key>/                  a large file's digest, by its path, size, times and inode
      comparisons/<key>/              what an interrupted comparison has measured, by its key

``<key>`` is the SHA-256 of the key's JSON. An entry is a folder with ``entry.json`` and its files. It is written
under another name and renamed, so that several processes may share the folder: each sees an entry whole or not at
all. The least recently used entries go when the folder outgrows its limit.

A cache makes things fast or does nothing: no method fails a build, what went wrong is in :attr:`Store.notes`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.files import digest_bytes, digest_file, write_atomically
from engines.sizes import parse_bytes, said_bytes
from engines.store.entries import Entry, places, read_entry, remove_entry, size_of, sweep, touch, used_at, write_entry
from engines.store.folder import cache_folder
from engines.store.stamps import stamp_of

__all__ = ["KINDS", "Store", "open_store", "runtime_cache", "save", "timing_cache"]

KINDS = ("engines", "graphs", "timing", "runtime", "digests", "comparisons")
DEFAULT_LIMIT = 10 << 30
"""Bytes: a few dozen engines of the largest classifiers."""

_MUTABLE = "cache.bin"
_MOST_ENTRIES = 4096
"""So that looking through them for the oldest stays a matter of milliseconds."""
_WORTH_REMEMBERING = 1 << 20
"""Bytes: a smaller file is digested as fast as its digest is looked up."""

Key = Mapping[str, Any]


@dataclass
class Store:
    """A cache folder.

    Args:
        folder: where it is, made when something is put there; None for no cache at all.
        limit: bytes that it may hold; with 0 nothing more is kept.

    Attributes:
        notes: why something couldn't be kept, a line each.
    """

    folder: Path | None
    limit: int = DEFAULT_LIMIT
    notes: list[str] = field(default_factory=list)

    def find(self, kind: str, key: Key) -> Entry | None:
        """The entry of this key, its files checked; a damaged one is not found."""
        if self.folder is None:
            return None
        entry = read_entry(self._place(kind, key))
        if entry is None or _said(entry.key) != _said(key):  # what is damaged is replaced when it is made again
            return None
        if not all(self._holds(entry.path(name), digest) for name, digest in entry.files.items()):
            remove_entry(entry.folder)
            return None
        touch(entry.folder)
        return entry

    def put(
        self,
        kind: str,
        key: Key,
        what: str,
        facts: Mapping[str, Any],
        files: Mapping[str, bytes | memoryview] | None = None,
    ) -> Entry | None:
        """Keep facts and files under a key, in the place of what was there; None where that can't be done.

        Args:
            kind: one of :data:`KINDS`.
            key: what it was made from: strings, numbers, lists and the like.
            what: for people.
            facts: what is known of it, of the same types.
            files: file name → bytes.
        """
        files = files or {}
        size = sum(memoryview(data).nbytes for data in files.values())
        if self.folder is None or not self.limit:
            return None
        if size > self.limit:
            self._note(f"'{what}' is larger than the cache may be ({said_bytes(self.limit)}): it is not kept")
            return None
        place = self._place(kind, key)
        try:
            write_entry(place, what, key, facts, {name: (data, digest_bytes(data)) for name, data in files.items()})
        except OSError as error:
            self._note(
                f"the cache folder '{self.folder}' can't be written: {error.strerror or error}; nothing is kept there"
            )
            return None
        entry = read_entry(place)
        if entry is not None and kind != "digests":
            for name, digest in entry.files.items():
                self.remember(entry.path(name), digest)
            self._trim(place)
        return entry

    def mutable(self, kind: str, key: Key, what: str) -> Path | None:
        """The path of a file that its users change; its folder exists. None where there can't be one.

        Several processes may share it: write it with :func:`save`, and take a damaged one as none.
        """
        entry = self.find(kind, key) or self.put(kind, key, what, {})
        return entry.folder / _MUTABLE if entry else None

    def digest(self, path: Path) -> str:
        """``sha256:<hex>`` of a file, remembered while its path, size, times and inode stay the same.

        Raises:
            InputError: the file can't be read.
        """
        stamp = stamp_of(path)
        if stamp is None or stamp["size"] < _WORTH_REMEMBERING:
            return digest_file(path)
        if known := self.find("digests", stamp):
            return str(known.facts["digest"])
        stamp = stamp_of(path, settled=True)
        digest = digest_file(path)
        if stamp is not None and stamp_of(path) == stamp:
            self.put("digests", stamp, path.name, {"digest": digest})
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Take ``digest``, of what was just written, for the file's as long as the file doesn't change."""
        stamp = stamp_of(path, settled=True)
        if stamp is not None and stamp["size"] >= _WORTH_REMEMBERING:
            self.put("digests", stamp, path.name, {"digest": digest})

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """What is kept, the last used first."""
        found = (read_entry(place) for place in self._places(kind))
        return tuple(sorted((entry for entry in found if entry), key=lambda entry: -entry.used))

    def clear(self, kind: str | None = None) -> tuple[int, int]:
        """Remove what is kept; the number of entries and bytes. Other files in the folder are left alone.

        Raises:
            InputError: something can't be removed.
        """
        count = size = 0
        for place in self._places(kind):
            held = size_of(place)
            if not remove_entry(place):
                raise InputError(f"can't remove '{place}'", "check the permissions of the cache folder")
            count, size = count + 1, size + held
        return count, size

    def _place(self, kind: str, key: Key) -> Path:
        name = hashlib.sha256(_said(key).encode()).hexdigest()
        return (self.folder or Path()) / kind / name

    def _places(self, kind: str | None = None) -> Iterator[Path]:
        if self.folder is not None:
            for name in (kind,) if kind else KINDS:
                yield from places(self.folder / name)

    def _holds(self, path: Path, digest: str) -> bool:
        try:
            return self.digest(path) == digest
        except InputError:
            return False

    def _trim(self, spared: Path) -> None:
        """Remove the least recently used entries until the rest is within the limit."""
        held = [(used_at(place), size_of(place), place) for place in self._places()]
        total, count = sum(size for _, size, _ in held), len(held)
        for _, size, place in sorted(held):
            if total <= self.limit and count <= _MOST_ENTRIES:
                break
            if place != spared and remove_entry(place):
                total, count = total - size, count - 1
        sweep(spared.parent)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _said(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def open_store() -> Store:
    """The store that the environment names.

    Raises:
        InputError: ``$TOOLKIT_CACHE_LIMIT`` is no size.
    """
    folder, text = cache_folder(), os.environ.get("TOOLKIT_CACHE_LIMIT")
    try:
        store = Store(folder, parse_bytes(text) if text else DEFAULT_LIMIT)
    except InputError as error:
        raise InputError(f"TOOLKIT_CACHE_LIMIT: {error.cause}", error.remedy) from error
    if folder is None:
        store.notes.append("no home folder is known, so nothing is cached: set TOOLKIT_CACHE to a folder")
    return store


def timing_cache(library: str, gpu: str) -> Path | None:
    """Where TensorRT's timing cache of a release and GPU is kept; None where there is no usable cache folder.

    Args:
        library: name and version: "tensorrt 10.16.1.11".
        gpu: what timings depend on: name and driver.
    """
    return open_store().mutable("timing", {"library": library, "gpu": gpu}, f"{gpu}, {library}")


def runtime_cache(plan_digest: str, library: str, gpu: str) -> Path | None:
    """Where the kernels that TensorRT for RTX compiled for a plan are kept; None where there is no usable folder.

    The file may not be there yet. Write it with :func:`save`; take one that the library refuses as none.

    Args:
        plan_digest: ``sha256:...`` of the plan.
        library: name and version: "tensorrt_rtx 1.7.1.116".
        gpu: what kernels depend on: name, compute capability and driver.
    """
    key = {"plan": plan_digest, "library": library, "gpu": gpu}
    return open_store().mutable("runtime", key, f"{plan_digest[7:19]}, {gpu}, {library}")


def save(path: Path, data: bytes | memoryview) -> str | None:
    """Write a file of the cache, whole or not at all; why it couldn't be, None when it was."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # another process may have cleared the cache
        write_atomically(path, data)
    except (InputError, OSError) as error:
        return f"the cache couldn't be written: {error.cause if isinstance(error, InputError) else error}"
    return None
