"""A TensorRT plan as a session. What differs for TensorRT for RTX is in ``tensorrt_rtx.py``."""

from pathlib import Path
from typing import Any

import numpy as np

from engines.builders.log import Log, library_logger, listening
from engines.cuda import CudaDevice
from engines.errors import EngineMismatchError, InputError, RunError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.optional import require
from engines.passport import find_passport
from engines.plan_dtypes import PLAN_DTYPES
from engines.portability import require_runnable
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.owned import OwnedSession, device_index
from engines.sessions.plan_profiles import ProfileRange, Shape, largest_batch
from engines.sessions.plan_runner import PlanRunner
from engines.tensors import Array, Feeds, TensorSpec


class TensorRTSession(OwnedSession):
    """Runs a plan on an NVIDIA GPU.

    Args:
        path: the plan; its passport is read where there is one.
        device: "cuda:N", or "auto" for the first GPU.
        threads: None: a plan runs on the GPU, so any number is an error.
        graphs: capture a CUDA graph a batch size, which saves the host the launching of each kernel.
        check: hold header and passport against this machine before the library sees the plan; False leaves
            the judgement to the library.

    Attributes:
        graph_problem: why CUDA graphs were given up; empty while they work.

    Raises:
        EngineFormatError: the plan or its passport is damaged.
        EngineMismatchError: it was built for another library, platform or GPU.
        MissingLibraryError, UnsupportedError: the library, cuda-core, the driver or the GPU is missing.
    """

    backend = "tensorrt"
    module = "tensorrt"
    library = "TensorRT"

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        threads: int | None = None,
        graphs: bool = True,
        check: bool = True,
    ) -> None:
        path = Path(path)
        if threads is not None:
            raise InputError(f"a {self.library} engine runs on the GPU: it has no CPU threads", "leave --threads out")
        if device == "cpu":
            raise UnsupportedError(
                f"a {self.library} engine runs on a GPU, not on the CPU", "use --device auto, or an .onnx graph"
            )
        index = device_index("cuda:0" if device == "auto" else device)
        if check:
            require_runnable(path)
        gpu = CudaDevice(index)
        if check:
            require_runnable(path, compute_capability=gpu.compute_capability, digest=False)
        trt = self._trt = require(self.module, f"Running a {self.library} engine", self.backend)
        with listening(trt) as self._log:
            runtime = self._runtime = trt.Runtime(library_logger(trt))
            self._engine = self._load(runtime, path, gpu)
            inputs, outputs = self._tensors(path)
            profiles = self._profiles(inputs)
            dtypes = {spec.name: _numpy_type(spec) for spec in (*inputs, *outputs)}
            self._runner: PlanRunner | None = self._new_runner(gpu, profiles, dtypes, graphs)
        passport = find_passport(path)
        super().__init__(
            inputs,
            outputs,
            passport.metadata if passport else None,
            SessionInfo(
                self.backend,
                f"cuda:{gpu.index}",
                f"{self.library} {trt.__version__} on {gpu.name}",
                {self.module: str(trt.__version__)},
                largest_batch(profiles),
            ),
        )

    @property
    def graph_problem(self) -> str:
        """Why CUDA graphs were given up; empty while they work."""
        return self._runner.graph_problem if self._runner else ""

    def stage_times(self) -> StageTimes | None:
        """The device's own times of the last run; None before the first."""
        return self._runner.stage_times() if self._runner else None

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        assert self._runner is not None, "run() has checked that the session is open"  # noqa: S101
        with listening(self._trt) as self._log:
            try:
                return self._runner.run(feeds)
            except ToolkitError:
                raise
            except Exception as error:  # cuda-core's errors: an exhausted device, a fault in a kernel
                raise RunError(
                    f"{self.library} failed on a batch of {batch}: {error}; {self._reason()}",
                    "use a smaller batch; after a fault in a kernel the process has to be restarted",
                ) from error

    def _release(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
        self._engine = None
        self._runtime = None

    def _reason(self) -> str:
        log: Log = self._log
        return log.reason() or "it gave no reason"

    def _load(self, runtime: Any, path: Path, gpu: CudaDevice) -> Any:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        self._judge(path, data, gpu)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineMismatchError(
                f"{self.library} can't load '{path.name}' on {gpu.name}: {self._reason()}",
                f"rebuild it on this machine: toolkit build-engine GRAPH.onnx --backend {self.backend}",
            )
        return engine

    def _judge(self, path: Path, data: bytes, gpu: CudaDevice) -> None:
        """Ask the library whether a plan fits, where it can tell; TensorRT can't before it loads it."""

    def _tensors(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        trt, engine = self._trt, self._engine
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise UnsupportedError(
                    f"the tensor '{name}' of '{path.name}' is a shape on the host", "export without shape inputs"
                )
            if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
                raise UnsupportedError(
                    f"the tensor '{name}' of '{path.name}' has a vectorised layout",
                    "build it with linear inputs and outputs",
                )
            spec = _spec(name, engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name)), path)
            (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(spec)
        return tuple(inputs), tuple(outputs)

    def _profiles(self, inputs: tuple[TensorSpec, ...]) -> list[ProfileRange]:
        count = self._engine.num_optimization_profiles
        profiles = []
        for index in range(max(count, 1)):
            ranges = {spec.name: self._range(spec, index) for spec in inputs}
            minimum, optimum, maximum = ({name: shapes[i] for name, shapes in ranges.items()} for i in range(3))
            profiles.append(ProfileRange(minimum, optimum, maximum))
        return profiles

    def _range(self, spec: TensorSpec, profile: int) -> tuple[Shape, Shape, Shape]:
        fixed = tuple(size for size in spec.shape if isinstance(size, int))
        if len(fixed) == len(spec.shape):
            return fixed, fixed, fixed
        engine = self._engine
        low, best, high = engine.get_tensor_profile_shape(spec.name, profile)
        return tuple(map(int, low)), tuple(map(int, best)), tuple(map(int, high))

    def _new_runner(
        self, gpu: CudaDevice, profiles: list[ProfileRange], dtypes: "dict[str, np.dtype[Any]]", graphs: bool
    ) -> PlanRunner:
        trt, engine = self._trt, self._engine
        # Contexts share one scratch memory: one stream runs them all, so no two are ever at work together.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return PlanRunner(
            gpu,
            profiles,
            dtypes,
            lambda: self._context(engine.create_execution_context(strategy)),
            scratch=int(engine.device_memory_size_v2),
            graphs=graphs,
            complain=self._complaint,
        )

    def _context(self, context: Any) -> Any:
        if context is None:
            raise RunError(
                f"{self.library} can't make an execution context: {self._reason()}",
                "free memory on the GPU, or build the engine with a smaller --batch",
            )
        return context

    def _complaint(self, what: str) -> RunError:
        return RunError(
            f"the engine refused to {what}: {self._reason()}",
            "rebuild the engine on this machine",
        )


def _spec(name: str, kind: str, shape: tuple[int, ...], path: Path) -> TensorSpec:
    if kind not in PLAN_DTYPES:
        raise UnsupportedError(
            f"the tensor '{name}' of '{path.name}' is {kind}, which numpy can't hold",
            "export with float or integer inputs and outputs",
        )
    # A dimension of -1 varies; only the first is the batch, and it is the same one in every tensor.
    dims = (
        (("batch" if axis == 0 else f"{name}.{axis}") if size < 0 else int(size)) for axis, size in enumerate(shape)
    )
    return TensorSpec(name, PLAN_DTYPES[kind], tuple(dims))


def _numpy_type(spec: TensorSpec) -> "np.dtype[Any]":
    if spec.dtype == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(require("ml_dtypes", "A BF16 input or output", "onnxruntime").bfloat16)
        return bfloat16
    return np.dtype(spec.dtype)
