"""Which backend runs a file, and opening it there."""

import importlib
from pathlib import Path
from typing import Any

from engines.errors import EngineFormatError, InputError, UnsupportedError
from engines.files import read_start
from engines.header import plan_kind
from engines.portability import whole_plan
from engines.sessions.base import Session

BACKENDS = {
    "onnxruntime": "engines.sessions.onnxruntime:OnnxRuntimeSession",
    "onnxruntime-tensorrt": "engines.sessions.ort_tensorrt:OnnxRuntimeTensorRTSession",
    "openvino": "engines.sessions.openvino:OpenVinoSession",
    "torch": "engines.sessions.torch:TorchSession",
    "torch-compile": "engines.sessions.torch_compile:TorchCompileSession",
    "tensorrt": "engines.sessions.tensorrt:TensorRTSession",
    "tensorrt-rtx": "engines.sessions.tensorrt_rtx:RtxSession",
    "fake": "engines.sessions.fake:FakeSession",
}
"""Name → where its session class is."""

_FROM_CHECKPOINT = "a checkpoint becomes a session through toolkit.load(), which builds its network first"
_MODULES = {
    "torch": _FROM_CHECKPOINT,
    "torch-compile": _FROM_CHECKPOINT,
    "fake": "the fake session is constructed directly: engines.sessions.fake.FakeSession()",
}
_ALSO = {"onnxruntime": ("openvino", "onnxruntime-tensorrt")}
"""Backends that run another one's files when asked to."""

_CHECKPOINTS = {".pt", ".pth", ".pkl", ".ckpt"}


def backend_of(path: Path | str) -> str:
    """The name of the backend that runs the file at ``path`` when none is asked for.

    A plan is told by its content, a graph and a checkpoint by the suffix.

    Raises:
        InputError: the file can't be read.
        EngineFormatError: it is nothing that a backend runs.
    """
    path = Path(path)
    if kind := plan_kind(read_start(path, 4)):
        return kind
    if path.suffix == ".onnx":
        return "onnxruntime"
    if path.suffix in _CHECKPOINTS:
        return "torch"
    if path.suffix == ".json":
        raise EngineFormatError(f"'{path}' is not an engine", "give the graph or engine that it belongs to")
    return whole_plan(path).kind  # raises, and says what the file looks like instead


def fitting_backend(path: Path | str, backend: str = "auto") -> str:
    """The name of the backend that runs the file at ``path`` when ``backend`` is asked for.

    Raises:
        InputError: the file can't be read, or the backend doesn't run it.
        EngineFormatError: it is nothing that a backend runs.
        UnsupportedError: the backend opens no files at all.
    """
    found = backend_of(path)
    if backend == "auto":
        backend = found
    if backend not in BACKENDS:
        raise _no_backend(backend)
    if backend in _MODULES and (backend == "fake" or found == "torch"):
        raise UnsupportedError(f"the backend '{backend}' doesn't open files", _MODULES[backend])
    if backend not in (fitting := (found, *_ALSO.get(found, ()))):
        raise InputError(
            f"'{path}' is made for the backend '{found}', not for '{backend}'",
            f"use --backend {', '.join(fitting)} or auto",
        )
    return backend


def backend_class(name: str) -> Any:
    """The session class of a backend, imported now.

    Raises:
        InputError: there is no such backend.
    """
    if name not in BACKENDS:
        raise _no_backend(name)
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def open_session(
    path: Path | str,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    spin: str | None = None,
) -> Session:
    """Load the graph or engine at ``path`` on a device.

    Args:
        path: an ``.onnx`` graph or a TensorRT plan. A plan's header and passport are checked before its
            library sees it.
        backend: a key of :data:`BACKENDS`, or "auto": the one that the file is made for. A graph is ONNX Runtime's
            then, and runs in "openvino" or "onnxruntime-tensorrt" (its TensorRT provider) when asked to.
        device: "cpu", "cuda:N", "openvino:GPU" (another of OpenVINO's devices), or "auto". ``info`` of the session
            says what it became.
        threads: CPU threads, for a backend that runs on the CPU; None for its own default.
        spin: when ONNX Runtime's CPU threads wait for work at full speed: "always", which is its default, "running"
            or "never" (see its session). Other backends leave no such choice, so that it says nothing to them.

    Raises:
        InputError: the file can't be read, or an option doesn't apply to it.
        GraphError, EngineFormatError: the file is damaged.
        UnsupportedError: this machine can't run it, or a library is missing.
    """
    path = Path(path)
    name = fitting_backend(path, backend)
    choice = {"spin": spin} if spin is not None and name == "onnxruntime" else {}
    session: Session = backend_class(name)(path, device=device, threads=threads, **choice)
    return session


def _no_backend(name: str) -> InputError:
    return InputError(f"there is no backend '{name}'", f"backends are auto, {', '.join(BACKENDS)}")
