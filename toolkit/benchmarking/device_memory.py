"""What a measuring process holds of a GPU's memory.

It is how much less is free after what the process did than before: rivals are stopped meanwhile, so the difference
is its own. The driver's list of processes is not asked: in a container its ids are those of other processes.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

from engines.nvidia_wheels import has_nvidia_driver

_PCI_ID_LENGTH = 32


class DeviceMemory:
    """Accounts for the GPU memory that this process takes; of no use, and no harm, without a GPU.

    The context and the libraries' own memory are in it: they are what starting another process costs.
    """

    def __init__(self) -> None:
        self._nvml = _nvml()
        self._taken: dict[str, int] = {}

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """What is taken in this block is this process's."""
        before = self._used()
        yield
        for device, used in self._used().items():
            self._taken[device] = self._taken.get(device, 0) + used - before.get(device, used)

    def held(self, device: str) -> int | None:
        """Bytes held on a session's device ("cuda:0"); None for the CPU, and where the driver doesn't tell."""
        kind, _, number = device.partition(":")
        if kind != "cuda" or self._nvml is None:
            return None
        bus_id = _bus_id(int(number or 0))
        if bus_id is None:
            return None
        try:
            uuid = self._nvml.nvmlDeviceGetUUID(self._nvml.nvmlDeviceGetHandleByPciBusId(bus_id))
        except self._nvml.NVMLError:
            return None
        return max(0, self._taken.get(uuid, 0)) or None

    def _used(self) -> dict[str, int]:
        """Bytes in use by anybody, by the device's UUID."""
        nvml, found = self._nvml, {}
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                for index in range(nvml.nvmlDeviceGetCount()):
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    found[nvml.nvmlDeviceGetUUID(handle)] = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        return found


def _nvml() -> Any:
    """The initialised module ``pynvml``; None without a driver or without it."""
    if not has_nvidia_driver():
        return None
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # not installed, or another version than the driver's: no fault of what is measured
        return None
    return library


def _bus_id(number: int) -> bytes | None:
    """The bus id of a device as CUDA counts, which need not be as NVML counts."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    text, device = ctypes.create_string_buffer(_PCI_ID_LENGTH), ctypes.c_int()
    found = (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), number) == 0
        and driver.cuDeviceGetPCIBusId(text, _PCI_ID_LENGTH, device) == 0
    )
    return text.value if found else None
