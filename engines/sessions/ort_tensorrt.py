"""ONNX Runtime's TensorRT provider as a session: all of a graph runs there, or it doesn't open.

Its networks are weakly typed: a type that the graph is written in has to be permitted, and no other is. So the
options that permit FP16, BF16 and INT8 follow from the types of the graph's own constants. What it leaves no choice
of: products in FP32 are made in TF32 where the GPU has it.
"""

from collections.abc import Mapping
from pathlib import Path

from engines.errors import UnsupportedError
from engines.nvidia_wheels import has_nvidia_driver, load_nvidia_wheels
from engines.sessions.onnxruntime import OnnxRuntimeSession
from engines.sessions.ort_cuda import Opened
from engines.sessions.ort_errors import graph_error, one_line
from engines.sessions.ort_fp8 import holds
from engines.sessions.owned import device_index

PROVIDER = "TensorrtExecutionProvider"

_PERMITTED = {"trt_int8_enable": 3, "trt_fp16_enable": 10, "trt_bf16_enable": 16}
"""Option → ONNX's code of the type of constants that need it. BF16's is known from ONNX Runtime 1.22 on."""


class OnnxRuntimeTensorRTSession(OnnxRuntimeSession):
    """Runs an ``.onnx`` graph in the TensorRT provider.

    TensorRT builds an engine at the first run, and again for a batch outside of those seen before; no engine is kept
    on disk. Arguments are those of :class:`OnnxRuntimeSession`; "auto" is the first GPU, and the CPU is refused.

    Raises:
        UnsupportedError: the provider isn't in the installed build, doesn't load, or can't run all of the graph.
    """

    backend = "onnxruntime-tensorrt"

    def _open(self, path: Path, device: str, config: Mapping[str, str]) -> Opened:
        if device == "cpu":
            raise UnsupportedError(
                "ONNX Runtime's TensorRT provider runs on a GPU, not on the CPU", "use --backend onnxruntime"
            )
        index = device_index("cuda:0" if device == "auto" else device)
        runtime = self._runtime
        if PROVIDER not in runtime.get_available_providers():
            raise UnsupportedError(
                f"the installed ONNX Runtime {runtime.__version__} is a build without the TensorRT provider",
                "pip uninstall -y onnxruntime, then pip install 'onnx-tensorrt-toolkit[onnxruntime-gpu]'",
            )
        if not has_nvidia_driver():
            raise UnsupportedError(
                "ONNX Runtime's TensorRT provider was asked for, but there is no NVIDIA driver on this machine",
                "install the driver, or use --backend onnxruntime",
            )
        load_nvidia_wheels()
        try:
            entries = {**config, "session.disable_cpu_ep_fallback": "1"}
            session = self._make(path, [(PROVIDER, options(path, index))], entries)
        except Exception as error:
            known = graph_error(path, runtime.__version__, error, only_certain=True)
            raise known or _problem(index, error) from error
        if session.get_providers()[0] != PROVIDER:
            raise _problem(index, RuntimeError("the provider was dropped without a reason"))
        return Opened(session, None, "the TensorRT provider runs on a stream of its own")


def options(path: Path, index: int) -> dict[str, str]:
    """The provider's options for a graph on the GPU of a number."""
    permitted = {name: "1" for name, code in _PERMITTED.items() if holds(path, frozenset({code}))}
    return {"device_id": str(index), "trt_engine_cache_enable": "0", **permitted}


def _problem(index: int, error: Exception) -> UnsupportedError:
    from engines.providers import probe_provider

    # The library's own exception doesn't tell a provider that failed to load from a node that it can't run.
    if problem := probe_provider(PROVIDER, index).problem:
        return UnsupportedError(
            f"ONNX Runtime can't use its TensorRT provider on CUDA device {index}: {problem}",
            "run `toolkit doctor` on what is missing, or use --backend onnxruntime",
        )
    return UnsupportedError(
        f"ONNX Runtime's TensorRT provider can't run all of this graph: {one_line(error)}",
        "use --backend onnxruntime, or build an engine with `toolkit build-engine --backend tensorrt`",
    )
