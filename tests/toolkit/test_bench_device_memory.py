from types import SimpleNamespace

import pytest

from toolkit.benchmarking import device_memory
from toolkit.benchmarking.device_memory import DeviceMemory


class NVMLError(Exception):
    pass


def handle_at(bus_id: bytes) -> int:
    if bus_id == b"gone":
        raise NVMLError
    return int(bus_id)


@pytest.fixture
def driver(monkeypatch) -> SimpleNamespace:
    """Two GPUs whose memory anybody takes; the part of ``pynvml`` that is asked."""
    used = [1000, 2000]
    driver = SimpleNamespace(
        used=used,
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: len(used),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByPciBusId=handle_at,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=used[handle]),
    )
    monkeypatch.setattr(device_memory, "_nvml", lambda: driver)
    # CUDA counts its devices the other way round.
    monkeypatch.setattr(device_memory, "_bus_id", lambda number: [b"1", b"0", b"gone", None][number])
    return driver


def test_what_is_taken_in_the_blocks_is_held_and_what_rivals_take_in_between_is_not(driver):
    memory = DeviceMemory()
    with memory.counted():
        driver.used[1] += 500
    driver.used[1] += 9000
    with memory.counted():
        driver.used[1] += 30
        driver.used[0] += 7
    assert memory.held("cuda:0") == 530
    assert memory.held("cuda:1") == 7


def test_what_the_driver_does_not_tell_is_none(driver):
    memory = DeviceMemory()
    assert memory.held("cpu") is None
    assert memory.held("cuda:0") is None
    assert memory.held("cuda:2") is None
    assert memory.held("cuda:3") is None


def test_without_a_driver_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(device_memory, "has_nvidia_driver", lambda: False)
    memory = DeviceMemory()
    with memory.counted():
        pass
    assert memory.held("cuda:0") is None
