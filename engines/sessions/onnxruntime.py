"""ONNX Runtime as a session: the CPU, or CUDA when asked, and never one in place of the other."""

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engines.errors import InputError, RunError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.metadata import METADATA_KEY, ModelMetadata
from engines.optional import require
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.ort_binding import DeviceBinding, run_bfloat16
from engines.sessions.ort_cuda import CUDA, Create, Opened, new_pipeline, open_cuda
from engines.sessions.ort_errors import graph_error, one_line
from engines.sessions.ort_fp8 import CONFIG, DISABLED, holds_fp8
from engines.sessions.ort_profile import profile
from engines.sessions.owned import OwnedSession, device_index, plain
from engines.sessions.proof import Proof
from engines.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = "CPUExecutionProvider"

_TYPES = {"float": "float32", "double": "float64"}
_NUMPY_TYPES = frozenset(
    {"float16", "float32", "float64", "bfloat16", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)

UNFAITHFUL = ("WeightBiasQuantization",)
"""Optimisations that change what a graph computes. This one quantises float biases behind Q/DQ inputs with the
product of the two scales in the scales' own type, subnormal in FP16, and quantises layers that were left in float."""

Spin = Literal["always", "running", "never"]
"""When threads that have nothing to do wait for work at full speed: see :class:`OnnxRuntimeSession`."""

_SPIN: Mapping[str, Mapping[str, str]] = {
    "always": {},
    "running": {"session.force_spinning_stop": "1"},
    "never": {"session.intra_op.allow_spinning": "0"},
}


class OnnxRuntimeSession(OwnedSession):
    """Runs an ``.onnx`` graph.

    The file is given to ONNX Runtime by its path, which needs half the memory of giving its bytes.

    Args:
        path: the graph; external data beside it is found.
        device: "cpu"; "cuda:N", which fails unless every node runs there; "auto": CUDA where the
            installed ONNX Runtime really loads its CUDA provider, else the CPU. ``info`` says which it was.
        threads: CPU threads; None for one a physical core.
        spin: when threads that have nothing to do wait for work at full speed. "always": for some 20 ms after a run
            too, which makes short runs in a row faster. "running": not between runs, for a caller that computes
            there. "never": not within a run either, for an application whose other threads want the cores; small
            layers then take some 10 % longer.
        weights: arrays in place of the graph's external data; on the CPU they are read where they lie.

    Attributes:
        stream_problem: why a session on CUDA runs on the library's own stream, where copies don't overlap with
            computing; empty where they do.

    Raises:
        InputError: the file can't be read, or an option makes no sense.
        GraphError: it is damaged, invalid, or of an opset that this ONNX Runtime doesn't know.
        UnsupportedError: CUDA was asked for and can't run all of it.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        threads: int | None = None,
        spin: Spin = "always",
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        path = _check_file(Path(path))
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads make no sense", "give at least 1")
        if spin not in _SPIN:
            raise InputError(f"spin '{spin}' makes no sense", f"give {', '.join(_SPIN)}")
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
        self._weights = weights or {}  # the library's session refers to them
        self._threads = threads
        opened = self._open(path, device, dict(_SPIN[spin]))
        self._session: Any = opened.session
        self._streams, self.stream_problem = opened.streams, opened.problem
        self._binding: DeviceBinding | None = None
        try:
            self._set_up(path)
        except BaseException:
            self._release()
            raise

    def _open(self, path: Path, device: str, config: "Mapping[str, str]") -> Opened:
        """The library's session on a device that was asked for."""
        return _open(self._runtime, partial(self._make, path), path, device, config)

    def _make(self, path: Path, providers: list[Any], entries: "Mapping[str, str]") -> Any:
        self._made_by = (path, providers, entries)
        return _create(self._runtime, path, self._threads, providers, entries, self._weights)

    def _create_again(self, prefix: str) -> Any:
        """A library's session as this one's, that writes a profile; it runs on a stream of its own."""
        path, providers, entries = self._made_by
        alone = [
            one if isinstance(one, str) else (one[0], {key: one[1][key] for key in one[1] if "stream" not in key})
            for one in providers
        ]
        return _create(self._runtime, path, self._threads, alone, entries, self._weights, prefix)

    def _set_up(self, path: Path) -> None:
        """What the session is told of its library's session, and the memory that it runs on."""
        runtime = self._runtime
        provider = str(self._session.get_providers()[0])
        device = "cpu" if provider == CPU else f"cuda:{_cuda_device(self._session, provider)}"
        inputs, outputs = _specs(self._session, path)
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        info = SessionInfo(
            self.backend,
            device,
            provider,
            {"onnxruntime": str(runtime.__version__)},
            first if isinstance(first, int) else None,
        )
        super().__init__(inputs, outputs, _metadata(self._session, path), info)
        if self._streams is not None:
            self._pipeline = new_pipeline(runtime, self._session, self._streams, inputs, outputs)
        elif device != "cpu":
            self._binding = DeviceBinding(runtime, self._session, inputs, outputs, device)
        self._bfloat16 = any(spec.dtype == "bfloat16" for spec in (*inputs, *outputs))

    def stage_times(self) -> StageTimes | None:
        """Times of the last run on CUDA; None on the CPU.

        They are the device's own, or by the host's clock around synchronised steps where ``stream_problem`` says why.
        """
        if self._pipeline is not None:
            return self._pipeline.stage_times()
        return self._binding.times if self._binding else None

    def prove(self, feeds: Feeds) -> Proof:
        """Where each node ran, by a second session of the same graph, providers and options, which is closed again.

        Raises:
            RunError: there is no memory for a second session, or the graph failed.
            UnsupportedError: the graph takes or gives BF16, which is run another way.
        """
        with self.owned():
            if self._bfloat16:
                raise UnsupportedError("a graph that takes or gives BF16 isn't profiled", "profile it in FP32")
            arrays = {name: plain(array) for name, array in feeds.items()}
            return profile(self._create_again, arrays, self._info.provider)

    @contextlib.contextmanager
    def guarded(self, batch: int) -> "Iterator[None]":
        """Turn what ONNX Runtime raises in the block into a RunError."""
        try:
            yield
        except ToolkitError:
            raise
        except Exception as error:  # its exceptions have no common base but Exception
            memory = "memory" in str(error).lower() or "allocate" in str(error).lower()
            raise RunError(
                f"ONNX Runtime failed on a batch of {batch}: {one_line(error)}",
                "use a smaller batch" if memory else "check the graph with `toolkit verify`",
            ) from error

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        with self.guarded(batch):
            if self._pipeline is not None:
                return self._pipeline.run(feeds)
            arrays = {name: plain(array) for name, array in feeds.items()}
            if self._binding is not None:
                return self._binding.run(arrays)
            if self._bfloat16:
                return run_bfloat16(self._runtime, self._session, arrays, self._outputs)
            names = [spec.name for spec in self._outputs]
            return dict(zip(names, self._session.run(names, arrays), strict=True))

    def _release(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = self._binding = self._session = None
        self._weights = {}
        if self._streams is not None:
            # The library's session lives on our stream, so it goes first.
            self._streams.close()


def _check_file(path: Path) -> Path:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def _open(runtime: Any, create: Create, path: Path, device: str, config: "Mapping[str, str]") -> Opened:
    if device.startswith("cuda"):
        return open_cuda(runtime, create, path, device_index(device), config, lambda session: _specs(session, path))
    if device == "auto" and CUDA in runtime.get_available_providers():
        with contextlib.suppress(UnsupportedError):
            return open_cuda(runtime, create, path, 0, config, lambda session: _specs(session, path))
    try:
        return Opened(create([CPU], config), None)
    except Exception as error:
        raise graph_error(path, runtime.__version__, error) from error


def _create(
    runtime: Any,
    path: Path,
    threads: int | None,
    providers: list[Any],
    config: "Mapping[str, str]",
    weights: "Mapping[str, Array]",
    profile_prefix: str = "",
) -> Any:
    options = runtime.SessionOptions()
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    options.log_severity_level = 4  # errors come as exceptions too, and warnings are about its own optimisations
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    fp8 = holds_fp8(path)
    for key, value in {**config, **(CONFIG if fp8 else {})}.items():
        options.add_session_config_entry(key, value)
    if weights:
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    disabled = [*UNFAITHFUL, *(DISABLED if fp8 else ())]
    return runtime.InferenceSession(
        str(path), options, providers=providers, enable_fallback=0, disabled_optimizers=disabled
    )


def _cuda_device(session: Any, provider: str) -> int:
    return int(session.get_provider_options()[provider]["device_id"])


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


def _specs(session: Any, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and the outputs of a session."""
    inputs = tuple(_spec(node, path) for node in session.get_inputs())
    return inputs, tuple(_spec(node, path) for node in session.get_outputs())


def _metadata(session: Any, path: Path) -> ModelMetadata | None:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return ModelMetadata.loads(text)
    except InputError as error:
        raise InputError(f"'{path}': {error.cause}", error.remedy) from error
