"""ONNX Runtime's CUDA provider: opened on a stream of ours, so that its runs overlap with copies, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines.cuda import CudaDevice
from engines.errors import ToolkitError, UnsupportedError
from engines.nvidia_wheels import has_nvidia_driver, load_nvidia_wheels
from engines.sessions.ort_binding import BoundGraph, shapes_follow
from engines.sessions.ort_errors import graph_error, one_line
from engines.sessions.pipeline import Pipeline
from engines.sessions.slots import numpy_type
from engines.sessions.stage import Streams
from engines.tensors import TensorSpec

CUDA = "CUDAExecutionProvider"

Create = Callable[[list[Any], Mapping[str, str]], Any]
"""Makes a session of the graph, from providers and configuration entries."""


class Opened(NamedTuple):
    """A session on CUDA, and the streams that it runs on.

    Attributes:
        session: the library's.
        streams: None where it runs on its own.
        problem: why it runs on its own.
    """

    session: Any
    streams: Streams | None
    problem: str = ""


def open_cuda(
    runtime: Any, create: Create, path: Path, index: int, config: Mapping[str, str], tensors: Callable[[Any], Any]
) -> Opened:
    """Open a graph so that all of it runs on one GPU.

    Args:
        runtime: the onnxruntime module.
        create: makes the session.
        path: of the graph, for messages.
        index: number of the GPU.
        config: configuration entries.
        tensors: the inputs' and outputs' specs of a session.

    Raises:
        UnsupportedError: it can't.
        GraphError: the graph is to blame.
    """
    if CUDA not in runtime.get_available_providers():
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
    try:
        streams = Streams(CudaDevice(index))
    except ToolkitError as error:
        return Opened(_create(runtime, create, path, index, config, None), None, error.cause)
    try:
        session = _create(runtime, create, path, index, config, streams)
        inputs, outputs = tensors(session)
    except BaseException:
        streams.close()
        raise
    if shapes_follow(inputs, outputs):
        return Opened(session, streams)
    # On a stream of ours the library would leave it to us to copy outputs whose size only it knows.
    session = None
    streams.close()
    problem = "the shapes of the graph's outputs don't follow from its inputs'"
    return Opened(_create(runtime, create, path, index, config, None), None, problem)


def new_pipeline(
    runtime: Any, session: Any, streams: Streams, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Pipeline:
    """The way through the GPU of a session that was opened on ``streams``."""
    dtypes = {spec.name: numpy_type(spec) for spec in (*inputs, *outputs)}
    index = streams.gpu.index
    return Pipeline(
        streams,
        [spec.name for spec in inputs],
        dtypes,
        lambda: BoundGraph(runtime, session, inputs, outputs, dtypes, index),
    )


def _create(
    runtime: Any, create: Create, path: Path, index: int, config: Mapping[str, str], streams: Streams | None
) -> Any:
    # Without TF32 float32 means float32, as everywhere else in the toolkit.
    options = {"device_id": str(index), "use_tf32": "0"}
    if streams is not None:
        options["user_compute_stream"] = str(int(streams.compute.handle))
    try:
        session = create([(CUDA, options)], {**config, "session.disable_cpu_ep_fallback": "1"})
    except Exception as error:
        known = graph_error(path, runtime.__version__, error, only_certain=True)
        raise known or _cuda_error(index, error) from error
    if CUDA not in session.get_providers():
        raise _cuda_error(index, RuntimeError("the provider was dropped without a reason"))
    return session


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
