"""Which graph, which backend: what `build-engine` decides when it isn't told."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, MissingLibraryError, UnsupportedError
from engines.header import OLDEST_FP8, RTX_CAPABILITIES, runs_fp8

if TYPE_CHECKING:
    from engines.target import Gpu

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTISED = ("int8", "fp8")
"""The precisions that need a calibration table."""
TYPED_SUFFIXES = (".fp32.onnx", ".fp16.onnx", ".bf16.onnx", ".int8.onnx", ".int8.ort.onnx", ".fp8.onnx")
BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime")

_PACKAGES = {
    "tensorrt": ("tensorrt", "Building TensorRT engines", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "Building TensorRT for RTX engines", "tensorrt-rtx"),
    "onnxruntime": ("onnxruntime", "Making ONNX Runtime engines", "onnxruntime"),
}


def master_graph(folder: Path) -> Path:
    """The one master graph (not a typed one) in ``folder``.

    Raises:
        InputError: there is none, or there are several; the message lists them.
    """
    graphs = sorted(path for path in folder.glob("*.onnx") if not path.name.endswith(TYPED_SUFFIXES))
    if len(graphs) == 1:
        return graphs[0]
    if graphs:
        names = ", ".join(path.name for path in graphs)
        raise InputError(
            f"{len(graphs)} graphs are here: {names}", "name the one to build: toolkit build-engine GRAPH.onnx"
        )
    raise InputError("no .onnx graph is in this folder", "name one, or make one: toolkit export model.pt")


def choose_backend(requested: str, *, has_gpu: bool) -> str:
    """The backend to build for.

    "auto" is TensorRT on a machine with a GPU, else TensorRT for RTX, whose compiler needs none.

    Raises:
        MissingLibraryError: the requested library isn't installed.
        UnsupportedError: "auto" finds neither library, or the name is unknown.
    """
    if requested == "auto":
        if has_gpu and _installed("tensorrt"):
            return "tensorrt"
        if _installed("tensorrt-rtx"):
            return "tensorrt-rtx"
        extra = "tensorrt" if has_gpu else "tensorrt-rtx"
        raise UnsupportedError(
            "no TensorRT builder is installed for this machine",
            f"pip install 'onnx-tensorrt-toolkit[{extra}]', or --backend onnxruntime, which needs no GPU",
        )
    if requested not in BACKENDS:
        raise UnsupportedError(f"there is no backend '{requested}'", f"backends are auto, {', '.join(BACKENDS)}")
    if not _installed(requested):
        module, feature, extra = _PACKAGES[requested]
        raise MissingLibraryError(feature, module, extra)
    return requested


def targets(precision: str, backend: str, asked: Sequence[str], gpus: "Sequence[Gpu]" = ()) -> tuple[str, ...]:
    """The compute capabilities to build for; none leaves it to the library.

    FP8 runs on some only, and a plan's header doesn't tell which: built for "every one from 8.0", an FP8 plan of
    TensorRT for RTX 1.7 lists 8.0 and 8.6, which it refuses to build for alone. So FP8 names its targets.

    Args:
        precision: one of :data:`PRECISIONS`.
        backend: one of :data:`BACKENDS`.
        asked: ("8.9", ...), as the caller wants; none for the default.
        gpus: those of this machine; TensorRT builds for the first.

    Raises:
        UnsupportedError: FP8, and the backend or a target has none.
    """
    if precision != "fp8":
        return tuple(asked)
    if backend == "onnxruntime":
        raise UnsupportedError(
            "ONNX Runtime's CPU kernels don't compute in FP8",
            "build with --int8, or --fp8 with --backend tensorrt-rtx",
        )
    local = [gpu.compute_capability for gpu in gpus[:1]] if backend == "tensorrt" else []
    if old := [capability for capability in (*asked, *local) if not runs_fp8(capability)]:
        raise UnsupportedError(
            f"FP8 needs compute capability {OLDEST_FP8} or newer, not {', '.join(old)}",
            "build with --int8 or --fp16 for such GPUs",
        )
    if asked or backend == "tensorrt":
        return tuple(asked)
    return tuple(capability for capability in RTX_CAPABILITIES if runs_fp8(capability))


def _installed(backend: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[backend][0]) is not None


def engine_path(graph: Path, precision: str, backend: str) -> Path:
    """Where an engine goes: ``model.fp16.engine``, ``model.fp8.rtx.engine``, ``model.int8.ort.onnx``."""
    stem = graph.name.removesuffix(".onnx")
    for typed in TYPED_SUFFIXES:
        stem = stem.removesuffix(typed.removesuffix(".onnx"))
    if backend == "onnxruntime":
        return typed_path(graph, precision, backend)
    suffix = ".engine" if backend == "tensorrt" else ".rtx.engine"
    return graph.with_name(f"{stem}.{precision}{suffix}")


def typed_path(graph: Path, precision: str, backend: str) -> Path:
    """Where a typed graph goes; the master itself is the FP32 graph."""
    if precision == "fp32":
        return graph
    target = ".ort" if precision == "int8" and backend == "onnxruntime" else ""
    return graph.with_name(f"{graph.name.removesuffix('.onnx')}.{precision}{target}.onnx")
