"""What Linux counts of the CPU's time, clocks and throttling; elsewhere, and where a file is missing, None."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = 100  # the kernel's USER_HZ, which every architecture that this runs on has
_AT_MOST = 16  # clocks read: more cores say nothing more, and each costs time


@dataclass(frozen=True)
class CpuTime:
    """Seconds that the cores which this process may use have had since the start, summed over them.

    Attributes:
        busy: computing here.
        stolen: computing for other machines under the same hypervisor.
        total: all of it, idling included.
    """

    busy: float
    stolen: float
    total: float


class Host:
    """Reads the counters below ``root``, which is "/" but in tests.

    Args:
        root: the folder that ``proc`` and ``sys`` are in.
        cores: numbers of the cores that count; None for those that this process may use.
    """

    def __init__(self, root: Path = Path("/"), cores: Iterable[int] | None = None) -> None:
        self._proc, self._cpus = root / "proc", root / "sys/devices/system/cpu"
        self._groups = root / "sys/fs/cgroup"
        self._cores = sorted(_allowed() if cores is None else cores)
        self._clocks = [
            path
            for core in self._cores[:_AT_MOST]
            if (path := self._cpus / f"cpu{core}/cpufreq/scaling_cur_freq").is_file()
        ]

    def cpu_time(self) -> CpuTime | None:
        """Time of the cores; None where the system doesn't tell."""
        wanted = {f"cpu{core}" for core in self._cores}
        busy = stolen = total = 0
        for line in _text(self._proc / "stat").splitlines():
            name, *values = line.split()
            if not name.startswith("cpu"):
                break
            if name in wanted:
                ticks = [int(value) for value in values[:8]]  # user nice system idle iowait irq softirq steal
                if len(ticks) < 8:
                    return None
                busy += sum(ticks) - ticks[3] - ticks[4] - ticks[7]
                stolen += ticks[7]
                total += sum(ticks)
        return CpuTime(busy / _TICKS, stolen / _TICKS, total / _TICKS) if total else None

    def family(self, pids: Iterable[int]) -> frozenset[int]:
        """The ids of processes and of all that they have started and that hasn't been collected yet."""
        seen: set[int] = set()
        waiting = list(pids)
        while waiting:
            pid = waiting.pop()
            if pid not in seen:
                seen.add(pid)
                waiting += self.children(pid)
        return frozenset(seen)

    def process_time(self, pids: Iterable[int]) -> float:
        """Seconds of CPU that processes have used, with what they have collected of children that have ended."""
        return sum(self._ticks(pid) for pid in pids) / _TICKS

    def mhz(self) -> float | None:
        """The cores' clock now, averaged over them."""
        found = [int(text) / 1000 for path in self._clocks if (text := _text(path).strip()).isdigit()]
        if not found:
            lines = _text(self._proc / "cpuinfo").splitlines()
            found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return sum(found) / len(found) if found else None

    def throttled(self) -> int | None:
        """How often the cores were slowed by heat, or this process's control group held to its quota, until now."""
        counts = [_number(self._cpus / f"cpu{core}/thermal_throttle/core_throttle_count") for core in self._cores]
        packages = [
            _number(self._cpus / f"cpu{core}/thermal_throttle/package_throttle_count") for core in self._cores
        ]
        known = [count for count in (*counts, max(filter(None, packages), default=None), self._held()) if count]
        told = any(count is not None for count in (*counts, *packages, self._held()))
        return sum(known) if told else None

    def _held(self) -> int | None:
        for path in self._stat_files():
            for line in _text(path).splitlines():
                name, _, value = line.partition(" ")
                if name == "nr_throttled":
                    return int(value)
        return None

    def _stat_files(self) -> Sequence[Path]:
        """Where the control group's figures may be: version 2 and 1, as seen on a host and inside a container."""
        files = []
        for line in _text(self._proc / "self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                files.append(self._groups / path.lstrip("/") / "cpu.stat")
            elif "cpu" in controllers.split(","):
                files.append(self._groups / "cpu" / path.lstrip("/") / "cpu.stat")
        return [*files, self._groups / "cpu.stat", self._groups / "cpu/cpu.stat"]

    def _ticks(self, pid: int) -> int:
        # The name in brackets may hold anything; after it come the state and then 10 fields up to the times.
        fields = _text(self._proc / f"{pid}/stat").rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15])  # utime stime cutime cstime

    def children(self, pid: int) -> list[int]:
        """The ids of what a process has started and not collected yet; each of its threads is asked."""
        try:
            tasks = list((self._proc / f"{pid}/task").iterdir())
        except OSError:
            return []
        found: list[int] = []
        for task in tasks:
            found += [int(child) for child in _text(task / "children").split()]
        return found


def _allowed() -> Iterable[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # there is none, or the process has just ended
        return ""
