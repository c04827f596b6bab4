"""What a run has measured so far, on disk: written as it goes on, taken up again by the same command.

What is on disk is a whole record at any time, with ``complete`` false until all is measured; a kill, a full disk or
Ctrl-C leave the last one that was written.
"""

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InputError, MissingLibraryError, ToolkitError
from engines.files import atomic_file, write_atomically
from engines.store import Store, open_store, save
from engines.store.entries import remove_entry
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.records.record import Comparison
from toolkit.outputs import check_replace

_KIND = "comparisons"
_OTHER = "give --force to replace it, or another --record"
_NUMBERS = re.compile(r"\[\n[-+.,eE\d\s]*\]")


@dataclass
class Journal:
    """The file that holds a run's record; :meth:`at` and :meth:`in_cache` make one.

    Attributes:
        path: the file; None where nothing can be kept.
        known: what an interrupted run of the same key left in it.
        stale: there was an interrupted run of the same command, but a file, a library or the machine is another now.
        lasting: the file is the user's own, and stays when the run is complete.
        aside: a complete record of an earlier run is there, and stays until this one is complete, too: what is
            measured meanwhile lies beside it.
        written: it holds something of this run.
    """

    path: Path | None
    known: Comparison | None = None
    stale: bool = False
    lasting: bool = False
    aside: bool = False
    written: bool = field(default=False, init=False)

    @classmethod
    def at(cls, path: Path, key: str, command: str, *, fresh: bool = False, force: bool = False) -> "Journal":
        """The file that the user names; what another comparison left there is not replaced.

        Args:
            path: the record, there or not.
            key: of the run.
            command: that repeats the run. The record of the same command is replaced even though a file that it
                compares has changed since: it was derived from the same.
            fresh: begin anew where there is an interrupted run.
            force: replace what is there, whatever it is.

        Raises:
            InputError: the folder is missing or can't be written, or the file is of another comparison, or is none.
        """
        found = check_record(path, key, command, force=force)
        aside = found is not None and found.complete
        if aside:
            found = None
            with contextlib.suppress(ToolkitError):  # none there, or of no use
                found = read_record(_beside(path))
        going = found is not None and not found.complete and bool(found.rows) and not fresh
        known = found if going and found is not None and found.key == key else None
        return cls(path, known=known, stale=going and known is None, lasting=True, aside=aside)

    @classmethod
    def in_cache(cls, key: str, what: str, *, fresh: bool = False) -> "Journal":
        """A file in the cache folder, which is gone when the run is complete; none where there is no such folder.

        Raises:
            InputError: ``$TOOLKIT_CACHE_LIMIT`` is no size.
        """
        store = open_store()
        path = _place(store, key, what)
        if path is None or not path.exists() or fresh:
            return cls(path)
        try:
            record = read_record(path)
        except ToolkitError:  # damaged in the cache, which is nobody's fault and no loss
            return cls(path)
        return cls(path, known=record if record.key == key and not record.complete and record.rows else None)

    @property
    def place(self) -> Path | None:
        """The file that holds what is measured so far."""
        return _beside(self.path) if self.aside and self.path is not None else self.path

    def write(self, comparison: Comparison) -> None:
        """Put the whole record on disk; a cache that can't be written is no reason to stop.

        Raises:
            InputError: the user's own file can't be written.
        """
        if self.path is None:
            return
        if self.lasting:
            write_record(comparison, self.path if comparison.complete else self.place or self.path)
            self.written = True
        else:
            self.written = save(self.path, dump(comparison).encode()) is None or self.written

    def finish(self) -> None:
        """The run is complete: what was kept meanwhile in the cache or aside is removed, the user's own stays."""
        if self.aside and self.path is not None:
            _beside(self.path).unlink(missing_ok=True)
        if not self.lasting and self.path is not None:
            remove_entry(self.path.parent)


def check_record(path: Path, key: str, command: str, *, force: bool) -> Comparison | None:
    """Refuse to write a record over that of another comparison, or over another file; the record that is there.

    Args:
        path: the file.
        key: of the new record; empty for a merged one.
        command: of the new record.
        force: replace it whatever it is.

    Raises:
        InputError: the folder is missing or can't be written, or the file is of another comparison, or is none.
    """
    check_replace(path, None, lambda _: None, force=True, option="--record")
    found = None
    if path.exists():
        try:
            found = read_record(path)
        except MissingLibraryError:
            raise
        except ToolkitError as error:
            if not force:
                raise InputError(f"'{path}' exists and is no record of a comparison", _OTHER) from error
        if found is not None and not force and not (key and key == found.key) and command != found.command:
            raise InputError(f"'{path}' is the record of another comparison", _OTHER)
    probe(path, "--record")
    return found


def dump(comparison: Comparison) -> str:
    """The record as indented JSON; a list of numbers, a turn's raw times say, is one line."""
    text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    # No text can look like this: a line break inside a string is written as \\n.
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def write_record(comparison: Comparison, path: Path) -> None:
    """Write a record, whole or not at all.

    Raises:
        InputError: the file can't be written.
    """
    try:
        write_atomically(path, dump(comparison))
    except InputError as error:
        raise InputError(error.cause, error.remedy.replace("--output", "--record")) from error


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _place(store: Store, key: str, what: str) -> Path | None:
    return store.mutable(_KIND, {"comparison": key}, what)


def probe(path: Path, option: str) -> None:
    """Find out now, not after minutes of measuring, that a file can't be written.

    Raises:
        InputError: the folder can't be written, or its disk is full.
    """

    class _Enough(Exception):  # noqa: N818 - no error: leaves the block without renaming
        pass

    try:
        with atomic_file(path) as file:
            file.write(bytes(1 << 16))
            file.flush()
            raise _Enough
    except _Enough:
        pass
    except InputError as error:
        raise InputError(error.cause, error.remedy.replace("--output", option)) from error
