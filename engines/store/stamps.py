"""What tells that a file is still the one that was digested, without reading it, as git's index does."""

import time
from pathlib import Path
from typing import Any

_TICK = 20_000_000
"""Nanoseconds: two changes this close may leave the same time (Linux stamps files at its 4 to 10 ms ticks)."""
_COARSE_TICK = 2_000_000_000
"""The same where files are stamped in whole seconds, or in pairs of them."""


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


BOOT = _boot()
"""Names this start of the machine, None where it has no name.

A file that wasn't flushed may come back from a power failure with its size and times and without its content.
"""


def stamp_of(path: Path, *, settled: bool = False) -> dict[str, Any] | None:
    """Path, size, times and inode of a file; None where it isn't there.

    Args:
        path: the file.
        settled: None also for a file that was changed so lately that one more change could go unseen; waits for
            it to come of age where that is a matter of milliseconds.
    """
    try:
        found = path.stat()
        name = str(path.resolve())
    except OSError:
        return None
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    coarse = changed % 1_000_000_000 == 0
    age = time.time_ns() - changed
    if settled and age < (_COARSE_TICK if coarse else _TICK):
        if coarse or age < 0:
            return None
        time.sleep((_TICK - age) / 1e9)
    return {
        "path": name,
        "size": found.st_size,
        "modified": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
        "inode": found.st_ino,
        "boot": BOOT,
    }
