"""What this machine has: GPUs, driver, libraries, providers that really load. Nothing heavy is imported."""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import ToolkitError
from engines.providers import ProviderProbe, probe_providers, search_path

# Distributions worth reporting, in the order in which `doctor` lists them.
_DISTRIBUTIONS = (
    "torch", "onnx", "onnxscript", "numpy", "pillow", "scikit-learn",
    "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx",
    "cuda-core", "cuda-bindings", "nvidia-ml-py",
)  # fmt: skip

# Distributions that own the same files: installed together, the last one wins and removing either breaks both.
_SAME_FILES = (
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings"),
)

# openvino's import sends statistics of its use where this package is found; it does without.
_IMPORT = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
sys.modules["openvino_telemetry"] = None
importlib.import_module(sys.argv[2])
"""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: its number as nvidia-smi counts.
        name: "NVIDIA H200".
        compute_capability: "9.0".
        memory: bytes in all; None where the driver doesn't tell (GPUs that share the host's memory).
    """

    index: int
    name: str
    compute_capability: str
    memory: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "name": self.name,
            "compute_capability": self.compute_capability,
            "memory": self.memory,
        }


@dataclass(frozen=True)
class Target:
    """What a machine can build for and run.

    Attributes:
        platform: "linux-x86_64".
        python: "3.12.3".
        cpu: the processor's name; cores: how many of them this process may use.
        gpus: the NVIDIA GPUs.
        driver: version of the NVIDIA driver; None without one.
        libraries: distribution → version, of those that the toolkit can use.
        providers: what came of trying ONNX Runtime's providers; empty without it, or when not probed.
        broken: module → why it fails to import though it is installed.
        problems: what is installed and can't work, one line each: clashing packages, empty ones.
        compiler: the C++ compiler that PyTorch compiles with; empty when there is none.
    """

    platform: str
    python: str
    cpu: str
    cores: int
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    providers: tuple[ProviderProbe, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    compiler: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "platform": self.platform,
            "python": self.python,
            "cpu": self.cpu,
            "cores": self.cores,
            "gpus": [gpu.to_json() for gpu in self.gpus],
            "driver": self.driver,
            "libraries": dict(self.libraries),
            "providers": [provider.to_json() for provider in self.providers],
            "broken": dict(self.broken),
            "problems": list(self.problems),
            "compiler": self.compiler,
        }


def detect(*, probe: bool = True) -> Target:
    """Look at this machine.

    Args:
        probe: also try which of ONNX Runtime's providers load and whether the packages of TensorRT and OpenVINO
            import, each in a process of its own; otherwise it is a matter of milliseconds.
    """
    gpus, driver = find_gpus()
    problems = list(find_clashes())
    probes: tuple[ProviderProbe, ...] = ()
    if probe and importlib.util.find_spec("onnxruntime"):
        try:
            probes = probe_providers()
        except ToolkitError as error:
            problems.append(error.cause)
        if not probes:
            problems.append("the package 'onnxruntime' is there but empty: uninstall it and install it again")
    return Target(
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        python=platform.python_version(),
        cpu=_cpu_name(),
        cores=_cores(),
        gpus=gpus,
        driver=driver,
        libraries=find_libraries(),
        providers=probes,
        broken=find_broken() if probe else {},
        problems=tuple(dict.fromkeys(problems)),
        compiler=_compiler(),
    )


def find_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The NVIDIA GPUs and the driver's version, from nvidia-smi, else from the driver itself."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return _gpus_of_driver()
    query = "--query-gpu=index,name,compute_cap,memory.total,driver_version"
    try:
        answer = subprocess.run(
            [command, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return _gpus_of_driver()
    return parse_nvidia_smi(answer.stdout) if answer.returncode == 0 else _gpus_of_driver()


def parse_nvidia_smi(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """GPUs and driver from nvidia-smi's CSV of index, name, compute_cap, memory.total (MiB), driver_version."""
    gpus, driver = [], None
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) != 5 or not fields[0].isdecimal():
            continue
        memory = int(fields[3]) << 20 if fields[3].isdecimal() else None
        gpus.append(Gpu(int(fields[0]), fields[1], fields[2], memory))
        driver = fields[4]
    return tuple(gpus), driver


def _gpus_of_driver() -> tuple[tuple[Gpu, ...], str | None]:
    """What cuda-core finds where there is no nvidia-smi (a slim container)."""
    try:
        core = importlib.import_module("cuda.core")
        found = []
        for device in core.Device.get_all_devices():
            capability = device.compute_capability
            found.append(Gpu(device.device_id, device.name, f"{capability.major}.{capability.minor}", None))
        return tuple(found), _driver_version()
    except Exception:  # no cuda-core, no driver, no device: all mean that no GPU can be used
        return (), None


def _driver_version() -> str | None:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def find_libraries() -> dict[str, str]:
    """Distribution → version of what is installed, from package metadata."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def find_broken() -> dict[str, str]:
    """Module → why it fails to import, of the installed ones that are made of shared libraries.

    They are imported in another process: this one stays light, and a crash there is an answer too.
    """
    broken = {}
    for module in ("tensorrt", "tensorrt_rtx", "openvino"):
        if importlib.util.find_spec(module) is None:
            continue
        try:
            child = subprocess.run(
                [sys.executable, "-c", _IMPORT, json.dumps(search_path()), module],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except subprocess.TimeoutExpired:
            broken[module] = "no answer in 120 s"
            continue
        if child.returncode:
            lines = child.stderr.strip().splitlines()
            broken[module] = lines[-1] if lines else f"it ended with code {child.returncode}"
    return broken


def find_clashes() -> tuple[str, ...]:
    """One line for each set of installed packages that overwrite each other's files."""
    clashes = []
    for group in _SAME_FILES:
        folders = {name: folder for name in group if (folder := _folder(name))}
        here = [name for name, folder in folders.items() if list(folders.values()).count(folder) > 1]
        if here:
            clashes.append(
                f"{' and '.join(here)} overwrite each other: pip uninstall -y {' '.join(here)}, then install one"
            )
    return tuple(clashes)


def _folder(name: str) -> str | None:
    """Where a distribution is installed; None when it isn't. In folders apart two can't harm each other."""
    try:
        return str(importlib.metadata.distribution(name).locate_file(""))
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> str:
    """The name of the C++ compiler that PyTorch takes, where it is here."""
    name = os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    return Path(name).name if shutil.which(name) else ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
