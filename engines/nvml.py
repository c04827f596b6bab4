"""What the NVIDIA driver tells of its GPUs while they work.

It is asked over ``nvidia-ml-py`` (module ``pynvml``), which is optional.
"""

import importlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REASONS = {
    "nvmlClocksEventReasonApplicationsClocksSetting": "application clocks that were set",
    "nvmlClocksEventReasonSwPowerCap": "the power limit",
    "nvmlClocksEventReasonHwSlowdown": "a slowdown by the hardware",
    "nvmlClocksEventReasonSyncBoost": "other GPUs in the same boost group",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat, by the driver",
    "nvmlClocksEventReasonHwThermalSlowdown": "heat, by the hardware",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "the power supply's brake",
    "nvmlClocksEventReasonDisplayClockSetting": "a display's clock",
}
"""pynvml's name of a bit → what holds the clocks down; idling isn't in it."""


@dataclass(frozen=True)
class GpuSample:
    """One GPU at one moment; None is what the driver doesn't tell of this one.

    Attributes:
        index: its number as nvidia-smi counts.
        name: "NVIDIA H200".
        sm_mhz: clock of the multiprocessors.
        temperature_c: degrees Celsius.
        power_w: watts.
        utilisation: share of the last moments in which anything ran, 0..1.
        utilisation_others: that of other processes' work, 0..1.
        other_processes: processes of others that hold the GPU. In a container the driver's process ids aren't the
            ones seen there: what no id can be given to counts as others' where there are more of them than of ours.
        reasons: what holds its clocks down, in words.
    """

    index: int
    name: str
    sm_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    utilisation: float | None = None
    utilisation_others: float | None = None
    other_processes: int | None = None
    reasons: tuple[str, ...] = ()


class Gpus:
    """The GPUs of a driver that has been initialised; close it after use.

    Args:
        library: the module ``pynvml``, initialised.
        visible: whether a process id is one of this system's, told from ``/proc`` unless given.
    """

    def __init__(self, library: Any, *, visible: Callable[[int], bool] | None = None) -> None:
        self._library = library
        self._visible = visible or (lambda pid: Path(f"/proc/{pid}").is_dir())
        self._names = {name: bit for name in REASONS if (bit := getattr(library, name, 0))}
        count = self._ask(library.nvmlDeviceGetCount) or 0
        handles = ((index, self._ask(library.nvmlDeviceGetHandleByIndex, index)) for index in range(count))
        self._handles = [(index, handle, self._name(handle)) for index, handle in handles if handle is not None]
        self._since = dict.fromkeys(range(count), 0)

    def sample(self, own: Collection[int] = ()) -> tuple[GpuSample, ...]:
        """Every GPU now.

        Args:
            own: ids of the processes whose work isn't others'.
        """
        return tuple(self._sample(index, handle, name, own) for index, handle, name in self._handles)

    def close(self) -> None:
        """Let the driver go."""
        self._ask(self._library.nvmlShutdown)

    def _sample(self, index: int, handle: Any, name: str, own: Collection[int]) -> GpuSample:
        nvml, ask = self._library, self._ask
        power = ask(nvml.nvmlDeviceGetPowerUsage, handle)  # milliwatts
        busy = ask(nvml.nvmlDeviceGetUtilizationRates, handle)  # per cent
        return GpuSample(
            index,
            name,
            _float(ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)),
            _float(ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)),
            power / 1000 if power is not None else None,
            busy.gpu / 100 if busy is not None else None,
            self._utilisation_of_others(index, handle, own),
            self._others(handle, own),
            self._reasons(handle),
        )

    def _name(self, handle: Any) -> str:
        name = self._ask(self._library.nvmlDeviceGetName, handle)
        return name.decode() if isinstance(name, bytes) else str(name or "GPU")

    def _reasons(self, handle: Any) -> tuple[str, ...]:
        call = getattr(self._library, "nvmlDeviceGetCurrentClocksEventReasons", None)  # since 12.535
        bits = (self._ask(call, handle) if call else None) or 0
        return tuple(REASONS[name] for name, bit in self._names.items() if bits & bit)

    def _others(self, handle: Any, own: Collection[int]) -> int | None:
        lists = [
            self._ask(self._library.nvmlDeviceGetComputeRunningProcesses, handle),
            self._ask(self._library.nvmlDeviceGetGraphicsRunningProcesses, handle),
        ]
        if lists == [None, None]:
            return None
        return self._foreign({process.pid for found in lists if found for process in found}, own)

    def _foreign(self, pids: Iterable[int], own: Collection[int]) -> int:
        strangers = [pid for pid in pids if pid not in own]
        unseen = [pid for pid in strangers if not self._visible(pid)]
        return len(strangers) - len(unseen) + max(0, len(unseen) - len(own))

    def _utilisation_of_others(self, index: int, handle: Any, own: Collection[int]) -> float | None:
        """By the driver's samples since the last call; None where it has none, or can't say whose they are."""
        first = self._since[index] == 0
        try:
            samples = self._library.nvmlDeviceGetProcessUtilization(handle, self._since[index])
        except self._library.NVMLError as error:
            return 0.0 if getattr(error, "value", None) == self._library.NVML_ERROR_NOT_FOUND else None
        self._since[index] = max((sample.timeStamp for sample in samples), default=self._since[index])
        if first:  # of the time before anybody asked
            return None
        latest = {sample.pid: sample.smUtil for sample in sorted(samples, key=lambda sample: sample.timeStamp)}
        strangers = [pid for pid in latest if pid not in own]
        if not all(self._visible(pid) for pid in strangers):
            return None
        return min(1.0, float(sum(latest[pid] for pid in strangers)) / 100)

    def _ask(self, call: Callable[..., T], *arguments: Any) -> T | None:
        """The driver's answer; None where this GPU or this driver has none."""
        try:
            return call(*arguments)
        except self._library.NVMLError:
            return None


def open_gpus() -> Gpus | None:
    """The GPUs of this machine's driver; None without the driver, the library, or a GPU."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
        gpus = Gpus(library)
        if gpus.sample():
            return gpus
        gpus.close()
    except Exception:  # not installed, too old, no driver: none is a fault of what is measured
        return None
    return None


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
