"""ONNX Runtime as a session: the CPU, or CUDA when asked, and never one in place of the other."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import InputError, RunError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.metadata import METADATA_KEY, ModelMetadata
from engines.nvidia_wheels import has_nvidia_driver, load_nvidia_wheels
from engines.optional import require
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.ort_binding import DeviceBinding, run_bfloat16
from engines.sessions.ort_errors import graph_error, one_line
from engines.sessions.ort_fp8 import CONFIG, DISABLED, holds_fp8
from engines.sessions.owned import OwnedSession, device_index, plain
from engines.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_TYPES = {"float": "float32", "double": "float64"}
_NUMPY_TYPES = frozenset(
    {"float16", "float32", "float64", "bfloat16", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)

UNFAITHFUL = ("WeightBiasQuantization",)
"""Optimisations that change what a graph computes. This one quantises float biases behind Q/DQ inputs with the
product of the two scales in the scales' own type, subnormal in FP16, and quantises layers that were left in float."""

_NO_SPIN = {"session.force_spinning_stop": "1"}


class OnnxRuntimeSession(OwnedSession):
    """Runs an ``.onnx`` graph.

    The file is given to ONNX Runtime by its path, which needs half the memory of giving its bytes.

    Args:
        path: the graph; external data beside it is found.
        device: "cpu"; "cuda:N", which fails unless every node runs there; "auto": CUDA where the
            installed ONNX Runtime really loads its CUDA provider, else the CPU. ``info`` says which it was.
        threads: CPU threads; None for one a physical core.
        spin: whether its threads wait for the next run at full speed, for some 20 ms, which makes short runs in a row
            faster. False frees the cores at once, for a caller that computes between runs.

    Raises:
        InputError: the file can't be read, or an option makes no sense.
        GraphError: it is damaged, invalid, or of an opset that this ONNX Runtime doesn't know.
        UnsupportedError: CUDA was asked for and can't run all of it.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    def __init__(
        self, path: Path | str, *, device: str = "auto", threads: int | None = None, spin: bool = True
    ) -> None:
        path = _check_file(Path(path))
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads make no sense", "give at least 1")
        if device not in {"auto", "cpu"}:
            device = f"cuda:{device_index(device)}"
        runtime = require("onnxruntime", "Running an ONNX graph", "onnxruntime")
        if not hasattr(runtime, "InferenceSession"):
            # What is left when one of onnxruntime and onnxruntime-gpu was uninstalled from under the other.
            raise UnsupportedError(
                "the package 'onnxruntime' is installed but empty",
                "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one that you want",
            )
        self._runtime = runtime
        self._session: Any = _open(runtime, path, device, threads, {} if spin else _NO_SPIN)
        provider = str(self._session.get_providers()[0])
        device = "cpu" if provider == CPU else f"cuda:{_cuda_device(self._session)}"
        inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        info = SessionInfo(
            "onnxruntime",
            device,
            provider,
            {"onnxruntime": str(runtime.__version__)},
            first if isinstance(first, int) else None,
        )
        super().__init__(inputs, outputs, _metadata(self._session, path), info)
        self._binding = None
        if device != "cpu":
            self._binding = DeviceBinding(runtime, self._session, inputs, outputs, device)
        self._bfloat16 = any(spec.dtype == "bfloat16" for spec in (*inputs, *outputs))

    def stage_times(self) -> StageTimes | None:
        """Times of the last run on CUDA, by the host's clock around synchronised steps; None on the CPU."""
        return self._binding.times if self._binding else None

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        arrays = {name: plain(array) for name, array in feeds.items()}
        names = [spec.name for spec in self._outputs]
        try:
            if self._binding is not None:
                return self._binding.run(arrays)
            if self._bfloat16:
                return run_bfloat16(self._runtime, self._session, arrays, self._outputs)
            return dict(zip(names, self._session.run(names, arrays), strict=True))
        except ToolkitError:
            raise
        except Exception as error:  # its exceptions have no common base but Exception
            memory = "memory" in str(error).lower() or "allocate" in str(error).lower()
            raise RunError(
                f"ONNX Runtime failed on a batch of {batch}: {one_line(error)}",
                "use a smaller batch" if memory else "check the graph with `toolkit verify`",
            ) from error

    def _release(self) -> None:
        self._binding = None
        self._session = None


def _check_file(path: Path) -> Path:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def _open(runtime: Any, path: Path, device: str, threads: int | None, config: "Mapping[str, str]") -> Any:
    if device.startswith("cuda"):
        return _create_cuda(runtime, path, device_index(device), threads, config)
    if device == "auto" and CUDA in runtime.get_available_providers() and has_nvidia_driver():
        with contextlib.suppress(UnsupportedError):
            return _create_cuda(runtime, path, 0, threads, config)
    try:
        return _create(runtime, path, threads, [CPU], config)
    except Exception as error:
        raise graph_error(path, runtime.__version__, error) from error


def _create_cuda(runtime: Any, path: Path, index: int, threads: int | None, config: "Mapping[str, str]") -> Any:
    available = runtime.get_available_providers()
    if CUDA not in available:
        raise UnsupportedError(
            f"device 'cuda:{index}' was asked for, but the installed ONNX Runtime is a build without CUDA",
            "pip uninstall -y onnxruntime, then pip install 'onnx-tensorrt-toolkit[onnxruntime-gpu]'",
        )
    if not has_nvidia_driver():
        raise UnsupportedError(
            f"device 'cuda:{index}' was asked for, but there is no NVIDIA driver on this machine",
            "install the driver, or use --device cpu",
        )
    load_nvidia_wheels()
    # Without TF32 float32 means float32, as everywhere else in the toolkit.
    options = {"device_id": str(index), "use_tf32": "0"}
    config = {**config, "session.disable_cpu_ep_fallback": "1"}
    try:
        session = _create(runtime, path, threads, [(CUDA, options)], config)
    except Exception as error:
        known = graph_error(path, runtime.__version__, error, only_certain=True)
        raise known or _cuda_error(index, error) from error
    if CUDA not in session.get_providers():
        raise _cuda_error(index, RuntimeError("the provider was dropped without a reason"))
    return session


def _create(runtime: Any, path: Path, threads: int | None, providers: list[Any], config: "Mapping[str, str]") -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too, and warnings are about its own optimisations
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    fp8 = holds_fp8(path)
    for key, value in {**config, **(CONFIG if fp8 else {})}.items():
        options.add_session_config_entry(key, value)
    disabled = [*UNFAITHFUL, *(DISABLED if fp8 else ())]
    return runtime.InferenceSession(
        str(path), options, providers=providers, enable_fallback=0, disabled_optimizers=disabled
    )


def _cuda_error(index: int, error: Exception) -> UnsupportedError:
    from engines.providers import probe_provider

    # The library's own exception doesn't tell a provider that failed to load from a node that it can't run.
    problem = probe_provider(CUDA, index).problem
    if problem:
        return UnsupportedError(
            f"ONNX Runtime can't use CUDA device {index}: {problem}",
            "run `toolkit doctor` on what is missing, or use --device cpu",
        )
    return UnsupportedError(
        f"ONNX Runtime can't run all of this graph on CUDA device {index}: {one_line(error)}", "use --device cpu"
    )


def _cuda_device(session: Any) -> int:
    return int(session.get_provider_options()[CUDA]["device_id"])


def _spec(node: Any, path: Path) -> TensorSpec:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    dtype = _TYPES.get(kind, kind)
    if dtype not in _NUMPY_TYPES:
        raise UnsupportedError(
            f"'{path}' has the tensor '{node.name}' of type {node.type}, which numpy can't hold",
            "export the graph with numeric tensors as its inputs and outputs",
        )
    # A dimension without a name is free, and free on its own.
    dims = (
        (("batch" if axis == 0 else f"{node.name}.{axis}") if size is None else size)
        for axis, size in enumerate(node.shape or ())
    )
    return TensorSpec(node.name, str(np.dtype(dtype)) if dtype != "bfloat16" else dtype, tuple(dims))


def _metadata(session: Any, path: Path) -> ModelMetadata | None:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return ModelMetadata.loads(text)
    except InputError as error:
        raise InputError(f"'{path}': {error.cause}", error.remedy) from error
