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
        peak_resident_bytes: the sum of the peaks (VmHWM) of the process and its descendants.
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
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdout=out, stderr=log, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            while process.poll() is None:
                _look(process.pid, peaks)
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
        return Outcome(seconds, sum(peaks.values()), failure, out.read())


def _look(pid: int, peaks: dict[int, int]) -> None:
    """Note the peak of a process and, below it, of its children."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        if "VmHWM:" in status:
            peaks[pid] = int(status.split("VmHWM:")[1].split()[0]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                _look(int(child), peaks)
    except (OSError, ValueError):  # it has ended meanwhile
        return
