"""Run commands one at a time and measure them from outside: wall-clock time and the most memory they held."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL = 0.02
"""Seconds between two looks at the memory: what a process reaches in its last moment may be missed."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        seconds: from its start to its end.
        peak_resident_bytes: of one process its peak (VmHWM); of a process and its descendants the largest sum, at any
            look, of what each has for itself and its share of what they have together (Pss).
        failure: why it gave no result; None when it ended well.
        output: what it printed on its standard output.
    """

    seconds: float
    peak_resident_bytes: int
    failure: str | None
    output: str

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"seconds": self.seconds, "peak_resident_bytes": self.peak_resident_bytes}
        return value if self.failure is None else value | {"failure": self.failure}


def run(command: Sequence[str], *, limit: float = 300.0, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run ``command`` to its end; after ``limit`` seconds it is killed with all that it has started."""
    memory = _Memory()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdout=out, stderr=log, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            while process.poll() is None:
                memory.look(process.pid)
                if time.perf_counter() - start > limit:
                    break
                time.sleep(POLL)
            seconds = time.perf_counter() - start
        finally:
            late = process.poll() is None
            if late:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()]
        failure = f"killed after {limit:.0f} s" if late else None
        if not late and process.returncode:
            failure = f"exit {process.returncode}: {lines[-1][:300] if lines else 'without a word'}"
        return Outcome(seconds, memory.peak, failure, out.read())


class _Memory:
    """What a process and its descendants held.

    Attributes:
        peak: the most bytes.
    """

    def __init__(self) -> None:
        self.peak = 0

    def look(self, pid: int) -> None:
        pids = tree(pid)
        found = (
            _read(pid, "status", "VmHWM:")
            if len(pids) == 1
            else sum(_read(p, "smaps_rollup", "\nPss:") for p in pids)
        )
        self.peak = max(self.peak, found)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    pids = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += tree(int(child))
    except (OSError, ValueError):  # it has ended meanwhile
        pass
    return pids


def _read(pid: int, file: str, key: str) -> int:
    """A figure in kB out of a file in /proc, as bytes; 0 where the process has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
        return int(text.split(key)[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
