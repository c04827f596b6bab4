"""OpenVINO loaded without its statistics of use, and graphs compiled in the types that they are written in.

Left to itself OpenVINO 2026.4 computes in BF16 where the CPU has it (seen: FP32 logits off by 0.5 % of the largest).
With an inference precision of f32 it still rounds to INT8 what a layer reads whose weights alone are INT8 (seen: off
by 0.6 %). :data:`SETTINGS` turn both off, and what it says of itself afterwards is checked.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import InputError, UnsupportedError
from engines.optional import require
from engines.sessions.openvino_errors import one_line

FEATURE = ("Running a graph in OpenVINO", "openvino")
"""What needs the library, and the extra that installs it."""

_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"

SETTINGS: Mapping[str, str] = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",  # one run at a time is all that a session does
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
    _GROUP: "0",
    # Pinned, the threads of two sessions lie on the same cores (seen: two of one thread each, both on core 0).
    "ENABLE_CPU_PINNING": "NO",
}
"""What every graph is compiled with, as far as the device knows it; the precision every device has to know."""

_TELEMETRY = "openvino_telemetry"


def load_library() -> Any:
    """The module ``openvino``, imported without the statistics of use that its import sends to its maker.

    An application that has imported either of the packages itself has decided for itself.

    Raises:
        MissingLibraryError, UnsupportedError: it isn't installed, or fails to import.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return require("openvino", *FEATURE)
    modules: dict[str, Any] = sys.modules
    modules[_TELEMETRY] = None  # as if it weren't installed, which OpenVINO does without
    try:
        return require("openvino", *FEATURE)
    finally:
        del modules[_TELEMETRY]


def device_name(device: str) -> str:
    """OpenVINO's name of a device that is given as the toolkit writes it.

    Raises:
        InputError: it is the name of none.
        UnsupportedError: it is one of NVIDIA's.
    """
    kind, _, name = device.partition(":")
    if device in {"auto", "cpu"}:
        return "CPU"
    if kind == "openvino" and name:
        return name
    if kind == "cuda":
        raise UnsupportedError(f"OpenVINO doesn't run on '{device}'", "use --device cpu, or another --backend")
    raise InputError(
        f"there is no device '{device}'", "devices of OpenVINO are auto, cpu, openvino:GPU, openvino:NPU"
    )


def check_device(core: Any, name: str) -> None:
    """Raises UnsupportedError when ``core`` finds no device of this name."""
    available = list(core.available_devices)
    if name not in available and f"{name}.0" not in available:
        raise UnsupportedError(
            f"OpenVINO finds no device '{name}' on this machine",
            f"it finds {', '.join(f'openvino:{device}' for device in available) or 'none'}",
        )


def compile_graph(core: Any, model: Any, name: str, threads: int | None, path: Path) -> Any:
    """Compile a converted graph by :data:`SETTINGS`.

    Args:
        core: openvino's Core.
        model: the converted graph.
        name: OpenVINO's name of a device that is there.
        threads: of the CPU; None for OpenVINO's choice.
        path: where the graph is from.

    Raises:
        InputError: the device has no CPU threads to set.
        UnsupportedError: it can't compute so; on the CPU the library's own exception comes through.
    """
    known = set(core.get_property(name, "SUPPORTED_PROPERTIES"))
    settings = {key: value for key, value in SETTINGS.items() if key in known}
    if threads is not None:
        if "INFERENCE_NUM_THREADS" not in known:
            raise InputError(f"OpenVINO's device '{name}' has no CPU threads to set", "leave --threads out")
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = core.compile_model(model, name, settings)
    except Exception as error:
        if name == "CPU":  # which runs every graph that is one
            raise
        raise UnsupportedError(
            f"OpenVINO's device '{name}' can't run '{path}': {one_line(error)}", "use --device cpu"
        ) from error
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if precision != "f32" or {device.partition(".")[0] for device in devices} != {name.partition(".")[0]}:
        raise UnsupportedError(
            f"asked for '{name}' and FP32, OpenVINO took {', '.join(devices)} and {precision}", "use --device cpu"
        )
    if _GROUP in known and int(compiled.get_property(_GROUP)):
        raise UnsupportedError(
            f"OpenVINO's device '{name}' doesn't stop quantising what layers read", "use --backend onnxruntime"
        )
    return compiled
