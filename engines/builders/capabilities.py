"""Which library honours which build option: the one table that errors, ``--help`` and `toolkit doctor` read.

Light on purpose: the command line reads it for its help text, so nothing is imported here that takes time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX", "onnxruntime": "ONNX Runtime"}
"""The backends that engines are built for, with their names for people."""

_PLANS = ("tensorrt", "tensorrt-rtx")
_EVERY = tuple(TITLES)
_NO_BUILDER = "its engine is the graph itself, so nothing is compiled"


@dataclass(frozen=True)
class Capability:
    """One option of a build, and who honours it.

    Attributes:
        flag: how the command line spells it.
        title: what it asks for, in words.
        backends: the backends that honour it; the others refuse it.
        why: backend → why it can't, where there is more to say than that it can't.
    """

    flag: str
    title: str
    backends: tuple[str, ...]
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def only(self) -> str:
        """For a help text, like "TensorRT only"; empty where every library with a builder honours it."""
        if set(_PLANS) <= set(self.backends):
            return ""
        return " and ".join(TITLES[name] for name in self.backends) + " only"

    def reason(self, backend: str) -> str:
        """Why ``backend`` can't honour it; empty where there is nothing more to say."""
        return self.why.get(backend, _NO_BUILDER if backend == "onnxruntime" else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "flag": self.flag,
            "title": self.title,
            "backends": {name: name in self.backends for name in TITLES},
            "why": {name: self.reason(name) for name in TITLES if name not in self.backends and self.reason(name)},
        }


CAPABILITIES: dict[str, Capability] = {
    "profiles": Capability("--batch", "optimisation profiles", _PLANS),
    "workspace": Capability("--workspace", "a limit on scratch memory", _PLANS),
    "tf32": Capability("--tf32", "TF32 products in FP32 layers", _PLANS),
    "allow_partial": Capability("--allow-partial", "layers of another precision as a note, not an error", _EVERY),
    "timing_cache": Capability(
        "--timing-cache",
        "a file of kernel timings",
        ("tensorrt",),
        {"tensorrt-rtx": "it times nothing while it builds; its runtime cache keeps compiled kernels"},
    ),
    "optimization_level": Capability(
        "--optimization-level",
        "how long the builder searches",
        ("tensorrt",),
        {"tensorrt-rtx": "it chooses kernels on the target machine, when the engine first runs"},
    ),
    "version_compatible": Capability(
        "--version-compatible",
        "an engine that newer releases of the same major version run",
        ("tensorrt",),
        {"tensorrt-rtx": "an engine belongs to the release that built it, and a build takes seconds"},
    ),
    "hardware_compatibility": Capability(
        "--hardware-compatibility",
        "an engine that other GPUs run too",
        ("tensorrt",),
        {"tensorrt-rtx": "it names the GPUs by --compute-capability instead"},
    ),
    "weights_stripped": Capability(
        "--weights-stripped",
        "a plan without weights, which the graph beside it fills in when it is loaded",
        ("tensorrt",),
        {"tensorrt-rtx": "its builds ahead of time fail with every refit flag (seen in 1.7)"},
    ),
    "compute_capabilities": Capability(
        "--compute-capability",
        "GPU generations to build for",
        ("tensorrt-rtx",),
        {"tensorrt": "it builds for the GPU of this machine only"},
    ),
}
"""Field of :class:`engines.builders.options.BuildOptions` → who honours it."""


def capability_lines() -> list[str]:
    """The table for people, a line an option: its flag and the libraries that honour it."""
    width = max(len(capability.flag) for capability in CAPABILITIES.values())
    return [
        f"{capability.flag:{width}}  {', '.join(TITLES[name] for name in capability.backends)}"
        for capability in CAPABILITIES.values()
    ]


def help_text(name: str, text: str) -> str:
    """A help text with who honours the option at its end: "Kernel timings (TensorRT only)."."""
    only = CAPABILITIES[name].only
    return f"{text} ({only})." if only else f"{text}."


def refusal(name: str, backend: str) -> tuple[str, str]:
    """Cause and remedy for an option that ``backend`` can't honour; the remedy names who can."""
    capability = CAPABILITIES[name]
    why = capability.reason(backend)
    said = f"{backend} doesn't honour {capability.flag} ({capability.title})" + (f": {why}" if why else "")
    return said, f"leave it out, or build with --backend {' or '.join(capability.backends)}"
