"""What the cache folder holds."""

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.sizes import said_bytes
from engines.store import Entry, open_store

if TYPE_CHECKING:
    from rich.table import Table

_UNLISTED = "digests"
"""The kind whose entries, one a file and a change of it, are only counted in the table."""

_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"))


@dataclass(frozen=True)
class CacheList:
    """The content of a cache folder.

    Attributes:
        folder: where it is; None where there can't be one.
        limit: bytes that it may hold.
        entries: what it holds, the last used first.
    """

    folder: Path | None
    limit: int
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.entries)

    def table(self) -> "Table":
        """A row an entry: kind, what, size, last use."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("kind", "what", "size", "last used"):
            table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
        now = time.time()
        rest = [entry for entry in self.entries if entry.kind == _UNLISTED]
        for entry in self.entries:
            if entry.kind != _UNLISTED:
                table.add_row(entry.kind, entry.what, said_bytes(entry.size), _ago(now - entry.used))
        if rest:
            size = said_bytes(sum(entry.size for entry in rest))
            table.add_row(_UNLISTED, f"of {len(rest)} large files", size, _ago(now - rest[0].used))
        return table

    def summary(self) -> str:
        """One line: where, how much, of how much."""
        if self.folder is None:
            return "no home folder is known, so nothing is cached: set TOOLKIT_CACHE to a folder"
        counts = Counter(entry.kind for entry in self.entries)
        held = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "empty"
        return f"{self.folder}: {held}; {said_bytes(self.size)} of {said_bytes(self.limit)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder and str(self.folder),
            "limit_bytes": self.limit,
            "size_bytes": self.size,
            "entries": [
                {
                    "kind": entry.kind,
                    "what": entry.what,
                    "size_bytes": entry.size,
                    "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
                    "folder": str(entry.folder),
                    "key": dict(entry.key),
                }
                for entry in self.entries
            ],
        }


def list_cache() -> CacheList:
    """What the cache folder holds.

    Raises:
        InputError: ``$TOOLKIT_CACHE_LIMIT`` is no size.
    """
    store = open_store()
    return CacheList(store.folder, store.limit, store.entries())


def clear_cache(kind: str | None = None) -> str:
    """Remove everything from the cache, or one kind of it; what was removed, in words.

    Raises:
        InputError: something can't be removed.
    """
    count, size = open_store().clear(kind)
    if not count:
        return "there was nothing to remove"
    return f"removed {count} {'entry' if count == 1 else 'entries'}, {said_bytes(size)}"


def _ago(seconds: float) -> str:
    for span, name in _SPANS:
        if seconds >= span:
            count = int(seconds // span)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
