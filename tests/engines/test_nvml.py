"""What is read of GPUs, against a stand-in of NVIDIA's library, whose every name is looked up in the real one."""

# ruff: noqa: N802 - the names are the library's

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import engines.nvml
from engines.nvml import REASONS, Gpus, GpuSample, open_gpus

OWN, OTHER, GONE = 11, 22, 33


class Nvml:
    """The part of pynvml 13 that is used: plain functions over handles, and one exception for every refusal."""

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__(value)
            self.value = value

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND = 3, 6

    def __init__(self, *, refused=(), pids=(OWN, OTHER), bits=0):
        self.refused, self.pids, self.bits, self.asked, self.open = set(refused), pids, bits, [], True
        for number, name in enumerate(("nvmlClocksEventReasonGpuIdle", *REASONS)):
            setattr(self, name, 1 << number)

    def __getattribute__(self, name):
        if name.startswith("nvmlDevice") and name in object.__getattribute__(self, "refused"):

            def refuse(*_):
                raise Nvml.NVMLError(Nvml.NVML_ERROR_NOT_SUPPORTED)

            return refuse
        return object.__getattribute__(self, name)

    def nvmlShutdown(self):
        self.open = False

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"handle {index}"

    def nvmlDeviceGetName(self, handle):
        assert handle == "handle 0"
        return "NVIDIA H200"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        assert kind == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetPowerUsage(self, handle):
        return 412_500

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self.bits

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self.pids]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        return []

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        self.asked.append(since)
        samples = [(OWN, 100, 50), (OTHER, 90, 99), (OTHER, 110, 30)]
        return [SimpleNamespace(pid=pid, timeStamp=since + at, smUtil=share) for pid, at, share in samples]


def gpus(**facts):
    return Gpus(Nvml(**facts), visible=lambda pid: pid != GONE)


def test_a_gpu_is_read_in_the_units_of_the_record():
    assert gpus().sample({OWN}) == (
        GpuSample(0, "NVIDIA H200", 1980.0, 61.0, 412.5, 0.75, None, other_processes=1, reasons=()),
    )


def test_what_others_use_is_the_latest_of_each_process_since_the_last_look():
    found = gpus()
    assert found.sample({OWN})[0].utilisation_others is None, "the first look tells of the time before"
    assert found.sample({OWN})[0].utilisation_others == 0.30
    assert found._library.asked == [0, 110]


def test_nobody_elses_work_is_none_of_it_and_not_unknown():
    found = gpus()
    found.sample()

    def nothing(*_):
        raise Nvml.NVMLError(Nvml.NVML_ERROR_NOT_FOUND)

    found._library.nvmlDeviceGetProcessUtilization = nothing
    assert found.sample({OWN})[0].utilisation_others == 0.0


@pytest.mark.parametrize(
    ("pids", "others"),
    [((), 0), ((OWN,), 0), ((OWN, OTHER), 1), ((GONE,), 0), ((GONE, GONE + 1), 1), ((GONE, OTHER), 1)],
)
def test_processes_without_an_id_here_are_others_once_they_outnumber_ours(pids, others):
    found = Gpus(Nvml(pids=pids), visible=lambda pid: pid in {OWN, OTHER})
    assert found.sample({OWN})[0].other_processes == others


def test_reasons_of_held_clocks_are_words_and_idling_is_none():
    nvml = Nvml()
    nvml.bits = nvml.nvmlClocksEventReasonGpuIdle
    assert Gpus(nvml).sample()[0].reasons == ()
    nvml.bits |= nvml.nvmlClocksEventReasonSwPowerCap | nvml.nvmlClocksEventReasonHwThermalSlowdown
    assert Gpus(nvml).sample()[0].reasons == ("the power limit", "heat, by the hardware")


def test_what_a_gpu_does_not_tell_is_unknown_and_the_rest_is_told():
    refused = {
        "nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperature",
    }  # fmt: skip
    assert gpus(refused=refused).sample({OWN}) == (GpuSample(0, "NVIDIA H200", 1980.0),)
    assert gpus(refused={"nvmlDeviceGetHandleByIndex"}).sample() == ()


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(engines.nvml.importlib, "import_module", missing)
    assert open_gpus() is None

    class NoDriver:
        @staticmethod
        def nvmlInit():
            raise Nvml.NVMLError(12)

    monkeypatch.setattr(engines.nvml.importlib, "import_module", lambda _: NoDriver)
    assert open_gpus() is None


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py isn't installed")
def test_every_name_that_is_used_is_in_the_library():
    import pynvml

    source = Path(engines.nvml.__file__).read_text()
    used = set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML_\w+|NVMLError)\b", source))
    assert len(used) > 20
    assert {name for name in used if not hasattr(pynvml, name)} == set()
    assert issubclass(pynvml.NVMLError, Exception)
    assert {field for field, _ in pynvml.c_nvmlProcessUtilizationSample_t._fields_} >= {"pid", "timeStamp", "smUtil"}
    assert {field for field, _ in pynvml.c_nvmlUtilization_t._fields_} >= {"gpu"}
    bits = [getattr(pynvml, name) for name in REASONS]
    assert len(set(bits)) == len(bits)
    assert pynvml.nvmlClocksEventReasonGpuIdle not in bits
    assert pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND).value == pynvml.NVML_ERROR_NOT_FOUND
