"""Which graph, which backend: what `build-engine` decides when it isn't told."""

import importlib.util
from pathlib import Path

from engines.errors import InputError, MissingLibraryError, UnsupportedError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
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


def _installed(backend: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[backend][0]) is not None


def engine_path(graph: Path, precision: str, backend: str) -> Path:
    """Where an engine goes: ``model.fp16.engine``, ``model.int8.rtx.engine``, ``model.int8.ort.onnx``."""
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
