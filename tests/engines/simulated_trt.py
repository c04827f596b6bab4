"""TensorRT and TensorRT for RTX on the GPU of simulated.py, as much of them as the plan sessions use."""

import ctypes
import itertools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from tests.engines.simulated import Tracked, _memory, _streams, needs_context

_names = itertools.count(1)
_weights = np.random.default_rng(1).standard_normal((768, 5)).astype(np.float32) / 27


def linear(data):
    """What most simulated engines compute: 5 logits of float32 [batch, 3, 16, 16]."""
    return data.reshape(len(data), -1) @ _weights


Mode = Enum("Mode", "INPUT OUTPUT")
Place = Enum("Place", "DEVICE HOST")
Layout = Enum("Layout", "LINEAR CHW32")
DataType = Enum("DataType", "FLOAT HALF UINT8 FP8")
Strategy = Enum("Strategy", "STATIC USER_MANAGED")
Validity = Enum("Validity", "VALID INVALID")
GraphStrategy = Enum("GraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")

NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.UINT8: np.uint8}


@dataclass
class Engine:
    """A plan with one input and one output that computes ``function``; float32 unless ``kind`` says.

    One that is not ``capturable`` says so; one that ``spoils`` a capture does what can't be captured.
    """

    function: Callable
    profiles: tuple = (((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)
    shapes: dict = field(default_factory=lambda: {"input": (-1, 3, 16, 16), "logits": (-1, 5)})
    capturable: bool = True
    spoils: bool = False
    device_memory_size_v2: int = 1024
    contexts: list = field(default_factory=list)
    place: Place = Place.DEVICE
    layout: Layout = Layout.LINEAR
    kind: DataType = DataType.FLOAT
    input_kind: DataType | None = None
    compiled: set = field(default_factory=set)

    @property
    def num_io_tensors(self):
        return 2

    @property
    def num_optimization_profiles(self):
        return len(self.profiles)

    def get_tensor_name(self, index):
        return ("input", "logits")[index]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name == "input" else Mode.OUTPUT

    def get_tensor_location(self, name):
        return self.place

    def get_tensor_format(self, name):
        return self.layout

    def get_tensor_dtype(self, name):
        return self.input_kind or self.kind if name == "input" else self.kind

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_profile_shape(self, name, profile):
        assert name == "input"
        return list(self.profiles[profile])

    def create_execution_context(self, how):
        needs_context()
        own = isinstance(how, RuntimeConfig)
        assert own or how is Strategy.USER_MANAGED
        self.contexts.append(Context(self, cache=how.cache if own else None))
        return self.contexts[-1]

    def create_runtime_config(self):
        return RuntimeConfig()


class RuntimeCache:
    """Holds the batches that kernels were compiled for."""

    def __init__(self):
        self.kernels, self.loaded = set(), False

    def deserialize(self, blob):
        needs_context()
        if not blob.startswith(b"kernels "):
            return False
        self.kernels, self.loaded = set(blob[8:].split()), True
        return True

    def serialize(self):
        needs_context()
        return b"kernels " + b" ".join(sorted(self.kernels))


class RuntimeConfig:
    cuda_graph_strategy = GraphStrategy.DISABLED
    cache: RuntimeCache | None = None

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class Context(Tracked):
    def __init__(self, engine, cache=None):
        super().__init__("an execution context")
        self.engine, self.cache = engine, cache
        self.profile = self.shape = self.scratch = None
        self.fresh, self.version = True, 0
        self.addresses = {}
        self.direct_runs = self.graph_runs = 0

    def _change(self):
        from tests.engines.simulated import _known_to_host

        self.check(_known_to_host, writes=True)
        self.version += 1

    def set_device_memory(self, address, size):
        assert size >= self.engine.device_memory_size_v2
        self._change()
        self.scratch = (address, size)

    def set_optimization_profile_async(self, profile, handle):
        assert handle in _streams
        self._change()
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.profiles[self.profile]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._change()
        self.shape, self.fresh = tuple(shape), True
        return True

    def infer_shapes(self):
        return [] if self.shape else ["input"]

    def get_tensor_shape(self, name):
        return self.shape if name == "input" else (self.shape[0], *self.engine.shapes["logits"][1:])

    def set_tensor_address(self, name, address):
        assert address % 256 == 0, "a misaligned address"
        self._change()
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        needs_context()
        stream = _streams[handle]
        assert self.scratch or self.cache is not None, "the context has no scratch memory"
        source, target = (_memory[self.addresses[name]].live for name in ("input", "logits"))
        scratch = [_memory[self.scratch[0]]] if self.scratch else []
        shape, addresses, version = self.shape, dict(self.addresses), self.version
        if captured := stream.recording is not None:
            assert not self.fresh, "the first run after a change of shape must not be captured"
            stream.spoilt = self.engine.spoils
            if not self.engine.capturable:
                return False
        else:
            self.fresh = False
            self.direct_runs += 1

        def compute():
            if captured:
                assert version == self.version, "the context was changed after its graph was captured"
                self.graph_runs += 1
            self._compute(shape, addresses)

        stream.do(compute, [source], [target, self, *scratch])
        return True

    def _compute(self, shape, addresses):
        given, made = (NUMPY[self.engine.get_tensor_dtype(name)] for name in ("input", "logits"))
        raw = ctypes.string_at(addresses["input"], int(np.prod(shape)) * np.dtype(given).itemsize)
        data = np.frombuffer(raw, given).reshape(shape)
        answer = np.ascontiguousarray(self.engine.function(data), made)
        ctypes.memmove(addresses["logits"], answer.ctypes.data, answer.nbytes)
        if self.cache is not None:
            self.cache.kernels.add(str(shape[0]).encode())


def library(engine: Engine | None, name: str | None = None) -> types.SimpleNamespace:
    """Stands for the module; every plan deserialises to ``engine`` (None: the library refuses it)."""

    class Logger:
        def __init__(self):
            pass

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            if engine is None:
                self.logger.log(types.SimpleNamespace(__str__=lambda _: "ERROR"), "incompatible device")
            return engine

        def get_engine_validity(self, data):
            return Validity.VALID, 0

    return types.SimpleNamespace(
        __name__=name or f"simulated_tensorrt_{next(_names)}",
        __version__="10.13.0",
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=Mode,
        TensorLocation=Place,
        TensorFormat=Layout,
        ExecutionContextAllocationStrategy=Strategy,
        EngineValidity=Validity,
        CudaGraphStrategy=GraphStrategy,
    )


def warm(*slots):
    """Run each slot often enough for its context and graph to be made, which wait for the stream."""
    for slot in slots:
        for _ in range(2):
            slot.start()
            slot.wait()
