"""What a record says of the machine that it was measured on. It names no host and no user."""

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from engines.nvidia_wheels import has_nvidia_driver
from engines.target import find_gpus

LIBRARIES = (
    "onnx-tensorrt-toolkit",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)
"""Distributions whose versions matter to a measurement."""

_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
)


@dataclass(frozen=True)
class Machine:
    """The facts of a machine that explain its figures.

    Attributes:
        system: operating system and its release.
        architecture: "x86_64", "aarch64".
        processor: the CPU's own name.
        cores: logical cores that this process may use (affinity and container quota counted).
        instructions: instruction-set extensions that inference kernels pick by.
        governor: the frequency policy ("performance"); empty where the system doesn't tell.
        memory: bytes of RAM; None where the system doesn't tell.
        caches: bytes of the CPU's caches as one core sees them ("L1", "L2", "L3"): of data or of both, the
            instructions' own left out.
        virtual: whether a hypervisor runs this machine; None where the processor doesn't tell.
        gpus: name, memory and driver of each NVIDIA GPU.
        python: version of the interpreter.
        libraries: versions by distribution name.
    """

    system: str
    architecture: str
    processor: str
    cores: float
    instructions: tuple[str, ...] = ()
    governor: str = ""
    memory: int | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    python: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    caches: Mapping[str, int] = field(default_factory=dict)
    virtual: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"instructions": list(self.instructions), "gpus": [dict(gpu) for gpu in self.gpus]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The machine that ``to_json`` wrote; facts that it doesn't know are left out, absent ones left open."""
        known = {name: value[name] for name in (one.name for one in fields(cls)) if name in value}
        for name in ("instructions", "gpus"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)

    def __str__(self) -> str:
        gpus = "".join(f", {gpu.get('name', 'GPU')}" for gpu in self.gpus)
        return f"{self.processor}, {self.cores:g} core{'s' if self.cores != 1 else ''}{gpus}, {self.system}"


def describe() -> Machine:
    """The machine that this process runs on, without importing any of the libraries named."""
    model, flags = _processor()
    return Machine(
        # The rest of a release names a distribution's or a provider's own build.
        system=f"{platform.system()} {re.split('[^0-9.]', platform.release())[0]}".strip(),
        architecture=platform.machine(),
        processor=model,
        cores=usable_cores(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        governor=_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        memory=_memory(),
        gpus=_gpus(),
        python=platform.python_version(),
        libraries=installed(),
        caches=_caches(),
        # CPUID has the bit on x86 alone; elsewhere its absence says nothing.
        virtual="hypervisor" in flags if platform.machine() in {"x86_64", "AMD64"} and flags else None,
    )


def installed() -> dict[str, str]:
    """Versions of :data:`LIBRARIES` as far as installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> float:
    """Logical cores that this process may use; a fraction under a container's CPU quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _line(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        return min(float(affinity), int(quota[0]) / int(quota[1]))
    return float(affinity)


def busy_cores(seconds: float = 0.2) -> float | None:
    """Cores' worth of work that the whole machine does during ``seconds`` while this thread sleeps.

    Returns:
        0.0 for an idle machine; None where the system doesn't tell.
    """
    before = _cpu_ticks()
    time.sleep(seconds)
    after = _cpu_ticks()
    if before is None or after is None or after[1] <= before[1]:
        return None
    busy, total = after[0] - before[0], after[1] - before[1]
    return busy / total * (os.cpu_count() or 1)


def _cpu_ticks() -> tuple[int, int] | None:
    """(busy, all) ticks of every core since the start: the first line of /proc/stat."""
    fields = _line(Path("/proc/stat")).split()
    if len(fields) < 6 or fields[0] != "cpu":
        return None
    ticks = [int(value) for value in fields[1:9]]  # user nice system idle iowait irq softirq steal
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _processor() -> tuple[str, frozenset[str]]:
    """The CPU's name and flags."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, separator, value = line.partition(":")
            if separator:
                facts.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    flags = facts.get("flags") or facts.get("Features") or ""
    return facts.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def _caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Level → bytes of the first core's caches, but for those of instructions alone."""
    sizes = {}
    for cache in sorted(folder.glob("index*")):
        size = re.fullmatch(r"(\d+)([KMG]?)", _line(cache / "size"))
        if size and _line(cache / "type") != "Instruction":
            sizes[f"L{_line(cache / 'level')}"] = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return sizes


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> tuple[Mapping[str, Any], ...]:
    if not has_nvidia_driver():  # nothing need be imported to know
        return ()
    gpus, driver = find_gpus()
    return tuple(gpu.to_json() | {"driver": driver} for gpu in gpus)


def _line(path: Path) -> str:
    """The first line of a system file; empty where there is none."""
    try:
        with path.open() as file:
            return file.readline().strip()
    except OSError:
        return ""
