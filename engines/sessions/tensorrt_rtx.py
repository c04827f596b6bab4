"""A TensorRT for RTX plan as a session: the same API, with graphs and kernels made by the library itself."""

import contextlib
from pathlib import Path
from typing import Any

from engines.cuda import CudaDevice
from engines.errors import EngineMismatchError
from engines.files import digest_bytes
from engines.header import RTX_CAPABILITIES
from engines.sessions.plan_runner import Plan
from engines.sessions.stage import Streams
from engines.sessions.tensorrt import TensorRTSession

_REASONS = {
    "VERSION_MISMATCH": "it was built by another release",
    "UNSUPPORTED_CC": "it has no kernels for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "CUDA reports an error",
}


class RtxSession(TensorRTSession):
    """Runs a plan of TensorRT for RTX; arguments as :class:`engines.sessions.tensorrt.TensorRTSession`.

    Kernels are compiled for the GPU when they first run, and kept between processes in the toolkit's cache folder
    (``engines.store``): the session reads them when it opens and writes new ones when it closes. With ``graphs``
    the library captures CUDA graphs by itself, so one context a profile serves every batch size.
    """

    backend = "tensorrt-rtx"
    module = "tensorrt_rtx"
    library = "TensorRT for RTX"

    def _judge(self, path: Path, data: bytes, gpu: CudaDevice) -> None:
        self._digest = digest_bytes(data)
        trt, runtime = self._trt, self._runtime
        validity, diagnostics = runtime.get_engine_validity(data)
        if validity != trt.EngineValidity.INVALID:
            return
        bits = int(diagnostics)
        reasons = [
            text for name, text in _REASONS.items() if bits & int(getattr(trt.EngineInvalidityDiagnostics, name))
        ]
        remedy = f"rebuild it: toolkit build-engine GRAPH.onnx --backend {self.backend}"
        if gpu.compute_capability not in RTX_CAPABILITIES:
            remedy = "TensorRT for RTX doesn't support this GPU: build with --backend tensorrt"
        raise EngineMismatchError(
            f"TensorRT for RTX {trt.__version__} can't run '{path.name}' on {gpu.name} "
            f"(compute capability {gpu.compute_capability}): {', '.join(reasons) or self._reason()}",
            remedy,
        )

    def _prepare_engine(self, gpu: CudaDevice) -> None:
        trt, engine = self._trt, self._engine
        config: Any = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if self._graphs else strategies.DISABLED
        # Kernels compiled for one context are there for the next, and for the siblings'.
        cache: Any = config.create_runtime_cache()
        self._kernels: Any = _Kernels(
            cache,
            self._digest,
            f"{self.module} {trt.__version__}",
            f"{gpu.name}, compute capability {gpu.compute_capability}",
        )
        config.set_runtime_cache(cache)
        self._config = config

    def _new_plan(self, streams: Streams) -> Plan:
        engine, config = self._engine, self._config
        return Plan(
            streams,
            self._ranges,
            self._dtypes(),
            lambda: self._context(engine.create_execution_context(config)),
            scratch=None,
            graphs=False,
            complain=self._complaint,
        )

    def _release(self) -> None:
        # The library asks the device that is current in this thread.
        self._streams.gpu.make_current()
        self._kernels.save()
        super()._release()

    def _forget(self) -> None:
        # Both have to outlive the contexts that were made with them.
        self._config = self._kernels = None


class _Kernels:
    """The compiled kernels of an engine, in a file between processes.

    A cache is no reason to fail: what can't be read is compiled again, and what can't be written is left.

    Args:
        cache: the library's runtime cache; filled from the file where there is one that it takes.
        digest: of the plan.
        library: its name and release.
        gpu: its name and compute capability; the library itself holds the driver against the file.
    """

    def __init__(self, cache: Any, digest: str, library: str, gpu: str) -> None:
        from engines.store import runtime_cache

        self._cache, self._known = cache, ""
        self._path = runtime_cache(digest, library, gpu)
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            data = self._path.read_bytes()
            # The library holds it against this machine first, and leaves its cache empty when it doesn't fit.
            if cache.deserialize(data):
                self._known = digest_bytes(data)

    def save(self) -> None:
        """Write what has been compiled since, if anything."""
        if self._path is None:
            return
        data = b""
        with contextlib.suppress(Exception):  # after a fault on the device the library can't; closing goes on
            blob = self._cache.serialize()
            data = bytes(blob) if blob is not None else b""
        if not data or digest_bytes(data) == self._known:
            return
        from engines.store import save

        if save(self._path, data) is None:
            self._known = digest_bytes(data)
