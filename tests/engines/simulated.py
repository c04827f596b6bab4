"""A GPU in host memory: as much of cuda-core and TensorRT as the GPU session uses, with their rules enforced.

It lets the session's own logic (staging, profiles, contexts, graphs, closing) run where there is no GPU. It is
strict where the real ones are undefined: memory starts as garbage and is checked for use after it was freed,
copies must be of equal size, work on a closed stream fails, and a graph refuses to run once its context has been
changed. That every name used here exists in the real libraries is checked in test_gpu_api.py; what the real ones
do with them is checked in tests/gpu.
"""

import ctypes
import itertools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

_clock = itertools.count(1)


class Buffer:
    def __init__(self, raw, size, owner=None):
        self.raw, self.size, self.owner, self.closed = raw, size, owner, False
        self.live = owner.live if owner else self

    @property
    def handle(self):
        assert not self.live.closed, "use of freed memory"
        return ctypes.addressof(self.raw)

    @classmethod
    def from_handle(cls, ptr, size, owner=None):
        assert ptr == owner.handle
        assert size <= owner.size
        return cls(owner.raw, size, owner)

    def copy_to(self, dst, *, stream):
        assert self.size == dst.size, "cuda-core copies whole buffers"
        stream.do(lambda: ctypes.memmove(dst.handle, self.handle, self.size))

    def close(self, stream=None):
        assert not self.closed, "freed twice"
        self.closed = True


def _garbage(size):
    raw = (ctypes.c_uint8 * size)()
    ctypes.memset(raw, 0xA5, size)
    return Buffer(raw, size)


class PinnedResource:
    def allocate(self, size, *, stream=None):
        return _garbage(size)


@dataclass
class Event:
    timing_enabled: bool
    time: float | None = None

    def __sub__(self, other):
        assert self.timing_enabled
        assert other.timing_enabled
        return self.time - other.time

    def close(self):
        self.time = None


@dataclass(eq=False)
class Stream:
    recording: list[Callable[[], object]] | None = None
    closed: bool = False

    @property
    def handle(self):
        _streams[id(self)] = self
        return id(self)

    def do(self, work):
        assert not self.closed, "work on a closed stream"
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def record(self, event):
        self.do(lambda: setattr(event, "time", float(next(_clock))))

    def sync(self):
        assert self.recording is None, "sync while capturing"
        assert not self.closed

    def close(self):
        self.closed = True

    def create_graph_builder(self):
        return GraphBuilder(self)


_streams: dict[int, Stream] = {}


@dataclass
class GraphBuilder:
    stream: Stream
    work: list = field(default_factory=list)

    def begin_building(self, mode):
        assert mode in {"global", "thread_local", "relaxed"}
        self.stream.recording = []

    def end_building(self):
        self.work, self.stream.recording = self.stream.recording, None

    def complete(self):
        return Graph(self.work)

    def close(self):
        assert self.stream.recording is None


@dataclass
class Graph:
    work: list
    closed: bool = False

    def launch(self, stream):
        assert not self.closed
        for step in self.work:
            stream.do(step)

    def close(self):
        self.closed = True


class Device:
    name = "Simulated"
    compute_capability = types.SimpleNamespace(major=8, minor=9)

    def __init__(self, index):
        if index > 1:
            raise ValueError(f"there is no device {index}")

    def set_current(self):
        pass

    def create_stream(self):
        return Stream()

    def create_event(self, *, options):
        return Event(options.timing_enabled)

    def allocate(self, size, *, stream):
        assert isinstance(stream, Stream)
        return _garbage(size)


core = types.SimpleNamespace(
    Device=Device,
    Stream=Stream,
    Event=Event,
    EventOptions=lambda timing_enabled: types.SimpleNamespace(timing_enabled=timing_enabled),
    Buffer=Buffer,
    LegacyPinnedMemoryResource=PinnedResource,
    graph=types.SimpleNamespace(GraphBuilder=GraphBuilder, Graph=Graph),
)
"""Stands for the module ``cuda.core``."""

Mode = Enum("Mode", "INPUT OUTPUT")
Place = Enum("Place", "DEVICE HOST")
Layout = Enum("Layout", "LINEAR CHW32")
DataType = Enum("DataType", "FLOAT HALF UINT8 FP8")
Strategy = Enum("Strategy", "STATIC USER_MANAGED")


@dataclass
class Engine:
    """A plan with one input and one output that computes ``function`` on float32 arrays."""

    function: Callable
    profiles: tuple = (((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)
    shapes: dict = field(default_factory=lambda: {"input": (-1, 3, 16, 16), "logits": (-1, 5)})
    capturable: bool = True
    device_memory_size_v2: int = 1024
    contexts: list = field(default_factory=list)
    place: Place = Place.DEVICE
    layout: Layout = Layout.LINEAR
    kind: DataType = DataType.FLOAT

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
        return self.kind

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_profile_shape(self, name, profile):
        assert name == "input"
        return list(self.profiles[profile])

    def create_execution_context(self, strategy):
        assert strategy is Strategy.USER_MANAGED
        self.contexts.append(Context(self))
        return self.contexts[-1]


@dataclass
class Context:
    engine: Engine
    profile: int | None = None
    shape: tuple | None = None
    fresh: bool = True
    addresses: dict = field(default_factory=dict)
    scratch: tuple | None = None
    version: int = 0
    direct_runs: int = 0
    graph_runs: int = 0

    def set_device_memory(self, address, size):
        assert size >= self.engine.device_memory_size_v2
        self.scratch = (address, size)

    def set_optimization_profile_async(self, profile, handle):
        assert handle in _streams
        self.profile, self.version = profile, self.version + 1
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.profiles[self.profile]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self.shape, self.version, self.fresh = tuple(shape), self.version + 1, True
        return True

    def infer_shapes(self):
        return [] if self.shape else ["input"]

    def get_tensor_shape(self, name):
        return self.shape if name == "input" else (self.shape[0], *self.engine.shapes["logits"][1:])

    def set_tensor_address(self, name, address):
        self.addresses[name], self.version = address, self.version + 1
        return True

    def execute_async_v3(self, handle):
        stream = _streams[handle]
        assert self.scratch, "the context has no scratch memory"
        if stream.recording is not None:
            assert not self.fresh, "the first run after a change of shape must not be captured"
            if not self.engine.capturable:
                return False
            version = self.version

            def replay():
                assert version == self.version, "the context was changed after its graph was captured"
                self.graph_runs += 1
                self._compute(stream)

            stream.do(replay)
            return True
        self.fresh = False
        self.direct_runs += 1
        stream.do(lambda: self._compute(stream))
        return True

    def _compute(self, stream):
        count = int(np.prod(self.shape))
        raw = (ctypes.c_float * count).from_address(self.addresses["input"])
        answer = np.ascontiguousarray(self.engine.function(np.array(raw, np.float32).reshape(self.shape)), np.float32)
        ctypes.memmove(self.addresses["logits"], answer.ctypes.data, answer.nbytes)


def library(engine: Engine | None) -> types.SimpleNamespace:
    """Stands for the module ``tensorrt``; every plan deserialises to ``engine`` (None: the library refuses it)."""

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

    return types.SimpleNamespace(
        __name__=f"simulated_tensorrt_{next(_clock)}",
        __version__="10.13.0",
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=Mode,
        TensorLocation=Place,
        TensorFormat=Layout,
        ExecutionContextAllocationStrategy=Strategy,
    )
