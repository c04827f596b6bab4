"""Under which conditions something was measured: the load of others, clocks, throttling, on the CPU and on GPUs."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from engines.nvml import Gpus, GpuSample, open_gpus
from toolkit.benchmarking.host import CpuTime, Host

INTERVAL = 0.25
"""Seconds between two looks at the machine."""

_RARELY = 4  # looks from one reading of the clocks and of all threads to the next: on a large machine they are dear
_SHORTEST = 0.1  # seconds that tell a load: the counters go in hundredths


@dataclass(frozen=True)
class Spread:
    """How far a quantity ranged over the samples taken of it."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """The spread of what is known of ``values``; None when nothing is."""
        known = [float(value) for value in values if value is not None]
        return cls(min(known), statistics.median(known), max(known)) if known else None

    def to_json(self) -> dict[str, float]:
        return {"minimum": self.minimum, "median": self.median, "maximum": self.maximum}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The spread that ``to_json`` wrote."""
        return cls(float(value["minimum"]), float(value["median"]), float(value["maximum"]))


@dataclass(frozen=True)
class GpuConditions:
    """One NVIDIA GPU while something was measured; None is what its driver doesn't tell.

    Attributes:
        index: its number as nvidia-smi counts.
        name: "NVIDIA H200".
        sm_mhz: clock of the multiprocessors.
        temperature_c: degrees Celsius.
        power_w: watts.
        utilisation: share of the time in which it computed for anybody, 0..1.
        utilisation_others: the share of it that other processes had.
        other_processes: the most processes of others that held it at once.
        throttle_reasons: why its clocks were held down at any time, in words; idling isn't counted.
    """

    index: int
    name: str
    sm_mhz: Spread | None = None
    temperature_c: Spread | None = None
    power_w: Spread | None = None
    utilisation: Spread | None = None
    utilisation_others: Spread | None = None
    other_processes: int | None = None
    throttle_reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        spreads = {name: _json(getattr(self, name)) for name in _GPU_SPREADS}
        return {
            "index": self.index,
            "name": self.name,
            **spreads,
            "other_processes": self.other_processes,
            "throttle_reasons": list(self.throttle_reasons),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The conditions that ``to_json`` wrote."""
        spreads: dict[str, Any] = {name: _spread(value[name]) for name in _GPU_SPREADS}
        return cls(
            value["index"],
            value["name"],
            **spreads,
            other_processes=value["other_processes"],
            throttle_reasons=tuple(value["throttle_reasons"]),
        )


_GPU_SPREADS = ("sm_mhz", "temperature_c", "power_w", "utilisation", "utilisation_others")


@dataclass(frozen=True)
class Conditions:
    """The machine while something was measured; None is what the system doesn't tell.

    Attributes:
        seconds: how long it was watched.
        other_load: cores' worth of work of everything else than the measuring processes, this one and its children.
        stolen: share of the cores' time that the hypervisor gave to other machines, 0..1.
        cpu_mhz: clock of the cores, averaged over them.
        throttled: how often the CPU was slowed, by heat or by a container's quota.
        gpus: each NVIDIA GPU.
    """

    seconds: float
    other_load: Spread | None = None
    stolen: float | None = None
    cpu_mhz: Spread | None = None
    throttled: int | None = None
    gpus: tuple[GpuConditions, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "other_load": _json(self.other_load),
            "stolen": self.stolen,
            "cpu_mhz": _json(self.cpu_mhz),
            "throttled": self.throttled,
            "gpus": [gpu.to_json() for gpu in self.gpus],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The conditions that ``to_json`` wrote."""
        return cls(
            float(value["seconds"]),
            _spread(value["other_load"]),
            value["stolen"],
            _spread(value["cpu_mhz"]),
            value["throttled"],
            tuple(GpuConditions.from_json(gpu) for gpu in value["gpus"]),
        )


@dataclass(frozen=True)
class _Sample:
    """The counters at one moment; ``own`` is in seconds of CPU."""

    moment: float
    cpu: CpuTime | None
    own: float
    mhz: float | None
    gpus: tuple[GpuSample, ...]


class Watch:
    """Looks at the machine every quarter of a second, in a thread of its own, while its block runs.

    Args:
        own_pids: the ids of measuring processes, called in the thread. Their work isn't others', nor is that of this
            process, nor that of any which these have started.
        host: where the system's counters are read.
        gpus: opens the GPUs' driver; None where there is none.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        own_pids: Callable[[], Sequence[int]] = tuple,
        *,
        host: Host | None = None,
        gpus: Callable[[], Gpus | None] = open_gpus,
        interval: float = INTERVAL,
    ) -> None:
        self._own_pids, self._open_gpus, self._interval = own_pids, gpus, interval
        self._host = host or Host()
        self._gpus: Gpus | None = None
        self._samples: list[_Sample] = []
        self._family: frozenset[int] = frozenset()
        self._throttled: tuple[int | None, int | None] = (None, None)  # before and, once it is over, after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watching the machine", daemon=True)

    def __enter__(self) -> Self:
        self._gpus = self._open_gpus()
        self._throttled = (self._host.throttled(), None)
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._throttled = (self._throttled[0], self._host.throttled())
        if self._gpus is not None:
            self._gpus.close()

    def result(self) -> Conditions:
        """What was seen up to now; the whole of it after the block."""
        samples = list(self._samples)
        if not samples:
            return Conditions(0.0)
        first, last = samples[0], samples[-1]
        before, after = self._throttled
        if not self._stop.is_set():
            after = self._host.throttled()
        stolen = None
        if first.cpu is not None and last.cpu is not None and last.cpu.total > first.cpu.total:
            stolen = (last.cpu.stolen - first.cpu.stolen) / (last.cpu.total - first.cpu.total)
        return Conditions(
            last.moment - first.moment,
            Spread.of(_load_of_others(one, other) for one, other in pairwise(samples)),
            stolen,
            Spread.of(sample.mhz for sample in samples),
            None if before is None or after is None else max(0, after - before),
            _gpu_conditions(samples),
        )

    def _look(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()
        if time.monotonic() - self._samples[-1].moment >= _SHORTEST:
            self._take()

    def _take(self) -> None:
        rarely = len(self._samples) % _RARELY == 0
        # A process that ends goes on counting: by itself until it is collected, then in the one that did so.
        owner = os.getpid()
        own = frozenset([owner, *self._own_pids(), *self._host.children(owner)])
        if rarely:  # a measuring process has as many threads as there are cores, and each is asked
            self._family = self._host.family(own)
        own |= self._family
        cpu = self._host.cpu_time()
        used = self._host.process_time(own)
        gpus = self._gpus.sample(own) if self._gpus is not None else ()
        mhz = self._host.mhz() if rarely else None
        self._samples.append(_Sample(time.monotonic(), cpu, used, mhz, gpus))


def _load_of_others(one: _Sample, other: _Sample) -> float | None:
    """Cores' worth of work that wasn't the measuring processes' between two samples."""
    elapsed = other.moment - one.moment
    if one.cpu is None or other.cpu is None or elapsed < _SHORTEST:
        return None
    return max(0.0, (other.cpu.busy - one.cpu.busy) - (other.own - one.own)) / elapsed


def _gpu_conditions(samples: Sequence[_Sample]) -> tuple[GpuConditions, ...]:
    """Each GPU over all samples."""
    seen: dict[int, list[GpuSample]] = {}
    for sample in samples:
        for gpu in sample.gpus:
            seen.setdefault(gpu.index, []).append(gpu)
    conditions = []
    for index, found in sorted(seen.items()):
        spreads: dict[str, Any] = {name: Spread.of(getattr(gpu, name) for gpu in found) for name in _GPU_SPREADS}
        others = [gpu.other_processes for gpu in found if gpu.other_processes is not None]
        conditions.append(
            GpuConditions(
                index,
                found[0].name,
                **spreads,
                other_processes=max(others, default=None),
                throttle_reasons=tuple(dict.fromkeys(reason for gpu in found for reason in gpu.reasons)),
            )
        )
    return tuple(conditions)


def _json(spread: Spread | None) -> dict[str, float] | None:
    return spread.to_json() if spread is not None else None


def _spread(value: Mapping[str, Any] | None) -> Spread | None:
    return Spread.from_json(value) if value is not None else None
