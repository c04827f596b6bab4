"""Which of ONNX Runtime's providers really load.

``get_available_providers()`` lists what was compiled in. Whether one works shows only when a session is
made with it: its shared library may be missing, or a library that it needs, or the driver. A failed try
prints red lines and can't be undone in the process, so each is tried in a process of its own.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.optional import require

CPU_PROVIDER = "CPUExecutionProvider"
DEVICE_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
"""The providers that need an NVIDIA GPU, and so can be listed and still not load."""

# One Relu on float32 [1, 1], opset 13: the smallest graph that every provider takes.
_RELU = (
    b'\x08\x07:;\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01'
    b"\n\x02\x08\x01b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\r"
)

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from engines.providers import _try
_try(sys.argv[2], int(sys.argv[3]))
"""


@dataclass(frozen=True)
class ProviderProbe:
    """What came of trying one provider.

    Attributes:
        name: ONNX Runtime's name of it.
        loads: a session ran on it.
        problem: why not, in one line; empty when it loads.
    """

    name: str
    loads: bool
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def probe_providers() -> tuple[ProviderProbe, ...]:
    """Try the providers of the installed ONNX Runtime that the toolkit uses: the CPU's and NVIDIA's.

    Raises:
        MissingLibraryError, UnsupportedError: ONNX Runtime isn't installed or fails to import.
    """
    runtime = require("onnxruntime", "Listing the providers of ONNX Runtime", "onnxruntime")
    names = runtime.get_available_providers() if hasattr(runtime, "get_available_providers") else []
    return tuple(probe_provider(name) for name in names if name in {CPU_PROVIDER, *DEVICE_PROVIDERS})


def probe_provider(name: str, index: int = 0, *, timeout: float = 120.0) -> ProviderProbe:
    """Run a one-node graph on a provider, in another process.

    Args:
        name: ONNX Runtime's name of the provider.
        index: the number of the CUDA device.
        timeout: seconds after which it is given up.
    """
    arguments = [sys.executable, "-c", _CHILD, json.dumps(search_path()), name, str(index)]
    try:
        child = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return ProviderProbe(name, loads=False, problem=f"no answer in {timeout:.0f} s")
    if child.returncode == 0 and child.stdout.strip().endswith("ran"):
        return ProviderProbe(name, loads=True)
    return ProviderProbe(name, loads=False, problem=_reason(child.stdout + child.stderr, child.returncode))


def search_path() -> list[str]:
    """``sys.path`` as another process can use it, and this package in it however it was found."""
    home = str(Path(__file__).resolve().parent.parent)
    folders = [str(Path(entry).resolve()) for entry in sys.path]
    return folders if home in folders else [*folders, home]


def _try(name: str, index: int) -> None:
    import numpy as np

    from engines.nvidia_wheels import load_nvidia_wheels

    runtime = require("onnxruntime", "Trying a provider", "onnxruntime")
    load_nvidia_wheels()
    options = runtime.SessionOptions()
    provider: Any = name
    if name != CPU_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = (name, {"device_id": str(index)})
    try:
        session = runtime.InferenceSession(_RELU, options, providers=[provider], enable_fallback=0)
        session.run(None, {"x": np.ones((1, 1), np.float32)})
    except Exception as error:  # whatever it is, it is the answer
        print(f"reason: {error}", file=sys.stderr)
        sys.exit(1)
    print("ran" if name in session.get_providers() else "reason: dropped without a word")


def _reason(output: str, code: int) -> str:
    """The one line of a failed try's output that says why."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", output)
    if match := re.search(r"with error: (.*)", text):
        missing = re.match(r"(\S+): cannot open shared object file", match[1])
        return f"{missing[1]} is not found" if missing else match[1].strip()
    if "Please install TensorRT libraries" in text:
        return "the TensorRT libraries that it was built for are not found"
    if match := re.search(r"(CUDA (?:failure|error)[^;\n]*)", text, re.IGNORECASE):
        return " ".join(match[1].split())
    if match := re.search(r"reason: (.*)", text):
        return " ".join(match[1].split())[:300]
    return f"the process that tried it ended with code {code}"
