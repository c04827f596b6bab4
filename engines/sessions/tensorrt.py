"""A TensorRT plan as a session. What differs for TensorRT for RTX is in ``tensorrt_rtx.py``."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engines.builders.log import Log, library_logger, listening
from engines.builders.refit import allow_host_code_datacentre, refit_if_stripped_datacentre
from engines.cuda import CudaDevice
from engines.errors import EngineMismatchError, InputError, RunError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.optional import require
from engines.passport import Passport, find_passport
from engines.portability import require_runnable
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.owned import OwnedSession, device_index
from engines.sessions.pipeline import Pipeline
from engines.sessions.plan_facts import read_profiles, read_tensors
from engines.sessions.plan_profiles import largest_batch
from engines.sessions.plan_runner import Plan, PlanProgram
from engines.sessions.proof import Proof
from engines.sessions.slots import numpy_type
from engines.sessions.stage import Streams
from engines.tensors import Array, Feeds

if TYPE_CHECKING:
    import numpy as np


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
        self._graphs = graphs
        with listening(trt) as self._log:
            runtime = self._runtime = trt.Runtime(library_logger(trt))
            passport = find_passport(path)
            self._engine = self._load(runtime, path, gpu, passport)
            inputs, outputs = read_tensors(trt, self._engine, path)
            self._ranges = read_profiles(self._engine, inputs)
            super().__init__(
                inputs,
                outputs,
                passport.metadata if passport else None,
                SessionInfo(
                    self.backend,
                    f"cuda:{gpu.index}",
                    f"{self.library} {trt.__version__} on {gpu.name}",
                    {self.module: str(trt.__version__)},
                    largest_batch(self._ranges),
                ),
            )
            self._prepare_engine(gpu)
            self._set_up(gpu)

    def sibling(self) -> Self:
        """Another session on the same deserialised engine, for another thread: own contexts, memory and streams.

        The weights are on the device once. Each sibling is closed by itself, in any order.

        Raises:
            RunError: this session is closed, or the GPU has no memory left for the sibling's buffers.
        """
        self.check_open()
        other = copy.copy(self)
        OwnedSession.__init__(other, self._inputs, self._outputs, self._metadata, self._info)
        other._pipeline = None
        gpu = CudaDevice(device_index(self._info.device))
        with other.guarded(1):
            other._set_up(gpu)
        return other

    @property
    def graph_problem(self) -> str:
        """Why CUDA graphs were given up; empty while they work."""
        return self._plan.graph_problem if self._plan else ""

    def stage_times(self) -> StageTimes | None:
        """The device's own times of the last run; None before the first."""
        return self._pipeline.stage_times() if self._pipeline else None

    def prove(self, feeds: Feeds) -> Proof:
        """That the library runs the plan as a whole on one GPU, which leaves nothing to fall back to."""
        with self.owned():
            how = f"a plan is one engine: {self.library} runs all of it on {self._info.device}, or fails"
            return Proof(self._info.provider, how, {self._info.device: 1.0})

    @contextlib.contextmanager
    def guarded(self, batch: int) -> Iterator[None]:
        """Listen to the library in the block, and turn what is raised there into a RunError."""
        with listening(self._trt) as self._log:
            try:
                yield
            except ToolkitError:
                raise
            except Exception as error:  # cuda-core's errors: an exhausted device, a fault in a kernel
                raise RunError(
                    f"{self.library} failed on a batch of {batch}: {error}; {self._reason()}",
                    "use a smaller batch; after a fault in a kernel the process has to be restarted",
                ) from error

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        assert self._pipeline is not None, "run() has checked that the session is open"  # noqa: S101
        with self.guarded(batch):
            return self._pipeline.run(feeds)

    def _release(self) -> None:
        self._streams.gpu.make_current()
        self._close_pipeline()
        self._forget()
        self._engine = None
        self._runtime = None

    def _reason(self) -> str:
        log: Log = self._log
        return log.reason() or "it gave no reason"

    def _load(self, runtime: Any, path: Path, gpu: CudaDevice, passport: Passport | None) -> Any:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        self._judge(path, data, gpu)
        allow_host_code_datacentre(runtime, passport.options if passport else {})
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineMismatchError(
                f"{self.library} can't load '{path.name}' on {gpu.name}: {self._reason()}",
                f"rebuild it on this machine: toolkit build-engine GRAPH.onnx --backend {self.backend}",
            )
        refit_if_stripped_datacentre(self._trt, engine, path, passport, self._log)
        return engine

    def _judge(self, path: Path, data: bytes, gpu: CudaDevice) -> None:
        """Ask the library whether a plan fits, where it can tell; TensorRT can't before it loads it."""

    def _prepare_engine(self, gpu: CudaDevice) -> None:
        """What is done once for an engine and all the siblings on it; nothing for TensorRT."""

    def _forget(self) -> None:
        """Let go of what :meth:`_prepare_engine` made; the contexts are gone, the engine is not."""

    def _new_plan(self, streams: Streams) -> Plan:
        trt, engine = self._trt, self._engine
        # Contexts share one scratch memory, which the compute stream orders.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return Plan(
            streams,
            self._ranges,
            self._dtypes(),
            lambda: self._context(engine.create_execution_context(strategy)),
            scratch=int(engine.device_memory_size_v2),
            graphs=self._graphs,
            complain=self._complaint,
        )

    def _set_up(self, gpu: CudaDevice) -> None:
        """Streams, contexts and buffers of this session alone; whatever was made is given back when one fails."""
        self._streams = Streams(gpu)
        self._plan: Plan | None = None
        try:
            plan = self._plan = self._new_plan(self._streams)
            names = [spec.name for spec in self._inputs]
            self._pipeline = Pipeline(self._streams, names, plan.dtypes, lambda: PlanProgram(plan))
            self._pipeline.reserve(self._ranges[0].maximum)
        except BaseException:
            self._close_pipeline()
            raise

    def _close_pipeline(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        if self._plan is not None:
            self._plan.close()
        self._streams.close()

    def _dtypes(self) -> "dict[str, np.dtype[Any]]":
        return {spec.name: numpy_type(spec) for spec in (*self._inputs, *self._outputs)}

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
