"""A TensorRT for RTX plan as a session: the same API, with graphs and kernels made by the library itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.cuda import CudaDevice
from engines.errors import EngineMismatchError
from engines.header import RTX_CAPABILITIES
from engines.sessions.plan_profiles import ProfileRange
from engines.sessions.plan_runner import PlanRunner
from engines.sessions.tensorrt import TensorRTSession

if TYPE_CHECKING:
    import numpy as np

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

    Kernels are compiled for the GPU when they first run. With ``graphs`` the library captures CUDA graphs
    by itself, so one context a profile serves every batch size.
    """

    backend = "tensorrt-rtx"
    module = "tensorrt_rtx"
    library = "TensorRT for RTX"

    def _judge(self, path: Path, data: bytes, gpu: CudaDevice) -> None:
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

    def _new_runner(
        self, gpu: CudaDevice, profiles: list[ProfileRange], dtypes: "dict[str, np.dtype[Any]]", graphs: bool
    ) -> PlanRunner:
        trt, engine = self._trt, self._engine
        config: Any = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
        # Kernels compiled for one context are there for the next.
        self._cache = config.create_runtime_cache()
        config.set_runtime_cache(self._cache)
        return PlanRunner(
            gpu,
            profiles,
            dtypes,
            lambda: self._context(engine.create_execution_context(config)),
            scratch=None,
            graphs=False,
            complain=self._complaint,
        )
