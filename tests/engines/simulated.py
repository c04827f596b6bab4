"""A GPU in host memory: as much of cuda-core and TensorRT as the GPU session uses, with their rules enforced.

It lets the session's own logic (staging, profiles, contexts, graphs, slots, closing) run where there is no GPU. It is
strict where the real ones are undefined:

- work put on a stream isn't done until something waits for it, so an answer that is read too early is garbage;
- streams know nothing of each other but what events tell: touching memory that another stream may still read or
  write, or changing a context or freeing a buffer that may still be in use, is an error;
- page-locked memory that is written to while its copy to the device is under way is an error, and what is copied to
  it is garbage until the host has waited for the copy;
- memory starts as garbage and is checked for use after it was freed, copies must be of equal size, work on a closed
  stream fails, and a graph refuses to run once its context has been changed;
- a thread in which the device was never made current can't allocate, copy, record, wait or ask an event;
- a capture can be spoilt: ending it then gives an error and no graph (simulated_driver.py).

That every name used here exists in the real libraries is checked in test_gpu_api.py; what the real ones do with
them is checked in tests/gpu.
"""

import ctypes
import itertools
import threading
import types
from collections import deque

import numpy as np

_ticks = itertools.count(1)
_numbers = itertools.count(1)
_known_to_host: dict[int, int] = {}
_memory: dict[int, "Buffer"] = {}
_thread = threading.local()


def needs_context():
    """What the driver does in a thread that no device was made current in."""
    if not getattr(_thread, "current", False):
        raise RuntimeError("CUDA_ERROR_INVALID_CONTEXT: no device is current in this thread")


def _merge(clock, other):
    for stream, position in other.items():
        clock[stream] = max(clock.get(stream, 0), position)


def _behind(clock, mark):
    return mark is None or clock.get(mark[0], 0) >= mark[1]


class Tracked:
    """Something that work reads and writes: who did so last, as (stream, position)."""

    def __init__(self, what):
        self.what, self.written, self.read = what, None, {}

    def check(self, clock, *, writes):
        assert _behind(clock, self.written), f"{self.what} is used while other work may still write it"
        if writes:
            late = [mark for mark in self.read.items() if not _behind(clock, mark)]
            assert not late, f"{self.what} is overwritten while other work may still read it"

    def mark(self, stream, position, *, writes):
        if writes:
            self.written, self.read = (stream, position), {}
        else:
            self.read[stream] = position


class Buffer(Tracked):
    def __init__(self, raw, size, owner=None, what="memory", live=None, offset=0):
        super().__init__(what)
        self.raw, self.size, self.owner, self.closed = raw, size, owner, False
        self.live, self.offset = live or self, offset

    @property
    def handle(self):
        assert not self.live.closed, "use of freed memory"
        return ctypes.addressof(self.raw) + self.offset

    @classmethod
    def from_handle(cls, ptr, size, owner=None):
        live = find(ptr)
        assert owner is not None, "borrowed memory without what holds it"
        offset = ptr - live.handle
        assert offset + size <= live.size
        return cls(live.raw, size, owner, live=live, offset=offset)

    def copy_to(self, dst, *, stream):
        needs_context()
        assert self.size == dst.size, "cuda-core copies whole buffers"
        source, target = self.live, dst.live
        sent = ctypes.string_at(self.handle, self.size) if source.what == "pinned memory" else None
        if target.what == "pinned memory":
            ctypes.memset(dst.handle, 0xA5, dst.size)
        if sent is not None or target.what == "pinned memory":
            bus.append((source.what, self.size))

        def copy():
            data = ctypes.string_at(self.handle, self.size)
            assert sent in {None, data}, "page-locked memory was changed while its copy was under way"
            ctypes.memmove(dst.handle, data, self.size)

        stream.do(copy, [source], [target])

    def close(self, stream=None):
        assert not self.closed, "freed twice"
        clock = dict(_known_to_host)
        if stream is not None and self.what == "device memory":
            _merge(clock, stream.clock)
        self.check(clock, writes=True)
        self.closed = True
        _memory.pop(ctypes.addressof(self.raw))


def find(address):
    """The memory that an address lies in."""
    for start, buffer in _memory.items():
        if start <= address < start + buffer.size:
            return buffer
    raise AssertionError("an address of no memory")


bus: list[tuple[str, int]] = []
"""What has crossed the bus: (where from, bytes)."""


def allocate(size, what="device memory"):
    """Memory full of garbage, aligned as CUDA's is."""
    whole = (ctypes.c_uint8 * (size + 256))()
    raw = (ctypes.c_uint8 * size).from_buffer(whole, -ctypes.addressof(whole) % 256)
    ctypes.memset(raw, 0xA5, size)
    buffer = _memory[ctypes.addressof(raw)] = Buffer(raw, size, what=what)
    return buffer


class PinnedResource:
    def allocate(self, size, *, stream=None):
        needs_context()
        return allocate(size, "pinned memory")


class Event:
    def __init__(self, timing_enabled):
        self.timing_enabled, self.time, self.recorded, self.closed = timing_enabled, None, None, False
        self.clock = {}

    def __sub__(self, other):
        assert self.timing_enabled
        assert other.timing_enabled
        assert self.is_done, "the event hasn't happened yet"
        assert other.is_done, "the event hasn't happened yet"
        return self.time - other.time

    @property
    def is_done(self):
        """Nothing moves by itself here: asking moves the event's stream by one step."""
        needs_context()
        assert not self.closed
        assert self.recorded, "an event that was never recorded"
        stream, position = self.recorded
        if stream.position < position:
            stream.run_until(stream.position + 1)
            return False
        _merge(_known_to_host, self.clock)
        return True

    def sync(self):
        needs_context()
        assert not self.closed
        assert self.recorded, "an event that was never recorded"
        stream, position = self.recorded
        stream.run_until(position)
        _merge(_known_to_host, self.clock)

    def close(self):
        assert not self.closed
        self.closed = True


class Stream:
    def __init__(self):
        self.recording, self.spoilt, self.closed = None, False, False
        self.number, self.queue, self.queued, self.position = next(_numbers), deque(), 0, 0
        self.clock = {}
        _streams[id(self)] = self

    @property
    def handle(self):
        return id(self)

    def do(self, work, reads=(), writes=()):
        """Put work on the stream that reads and writes what is listed."""
        assert not self.closed, "work on a closed stream"
        if self.recording is not None:
            self.recording.append((work, reads, writes))
            return
        _merge(self.clock, _known_to_host)
        for items, writing in ((reads, False), (writes, True)):
            for item in items:
                assert not getattr(item, "closed", False), "use of freed memory"
                item.check(self.clock, writes=writing)
        self._put(work)
        for items, writing in ((reads, False), (writes, True)):
            for item in items:
                item.mark(self.number, self.queued, writes=writing)

    def _put(self, work):
        self.queue.append(work)
        self.queued += 1
        self.clock[self.number] = self.queued

    def run_until(self, position):
        while self.position < position:
            self.position += 1
            self.queue.popleft()()

    def record(self, event):
        needs_context()
        assert self.recording is None
        assert not self.closed, "work on a closed stream"
        assert not event.closed

        def happen():
            event.time = float(next(_ticks))

        self._put(happen)
        event.recorded, event.clock = (self, self.queued), dict(self.clock)

    def wait(self, event):
        needs_context()
        assert self.recording is None
        assert not event.closed
        assert event.recorded, "waiting for an event that was never recorded waits for nothing"
        stream, position = event.recorded
        self._put(lambda: stream.run_until(position))
        _merge(self.clock, event.clock)

    def sync(self):
        needs_context()
        assert self.recording is None, "sync while capturing"
        assert not self.closed
        self.run_until(self.queued)
        _merge(_known_to_host, self.clock)

    def close(self):
        assert not self.closed, "closed twice"
        assert not self.queue, "closed with work under way"
        self.closed = True


_streams: dict[int, Stream] = {}


class Device:
    name = "Simulated"
    compute_capability = types.SimpleNamespace(major=8, minor=9)

    def __init__(self, index):
        if index > 1:
            raise ValueError(f"there is no device {index}")

    def set_current(self):
        _thread.current = True

    def create_stream(self):
        needs_context()
        return Stream()

    def create_event(self, *, options):
        needs_context()
        return Event(options.timing_enabled)

    def allocate(self, size, *, stream):
        needs_context()
        buffer = allocate(size)
        # It is there for other streams only when this one has come so far.
        stream.do(lambda: None, [], [buffer])
        return buffer


class Elsewhere:
    """An array of another library on the simulated GPU, produced on a stream of that library."""

    def __init__(self, array, *, device=0, offset=0, strides=None, stream=None):
        self.shape, self.dtype, self.device_id, self.strides = array.shape, array.dtype, device, strides
        self.stream = stream or Stream()
        self.buffer = allocate(array.nbytes + offset)
        self.ptr = self.buffer.handle + offset
        data = array.tobytes()
        self.stream.do(lambda: ctypes.memmove(self.ptr, data, len(data)), [], [self.buffer])

    def __dlpack_device__(self):
        return 2, self.device_id


class View:
    """Stands for StridedMemoryView."""

    @classmethod
    def from_any_interface(cls, obj, stream_ptr):
        if not isinstance(obj, Elsewhere):
            raise BufferError("can't export a tensor that requires gradients")  # noqa: TRY004 - as others do
        done = Event(False)
        obj.stream.record(done)
        _streams[stream_ptr].wait(done)
        return obj

    @classmethod
    def from_buffer(cls, buffer, shape, strides=None, *, dtype):
        def read(**options):
            assert options.get("stream") in {None, -1}
            size = int(np.prod(shape)) * dtype.itemsize
            buffer.live.check(_known_to_host, writes=False)
            return np.frombuffer(ctypes.string_at(buffer.handle, size), dtype).reshape(shape)

        return types.SimpleNamespace(__dlpack__=read)


core = types.SimpleNamespace(
    Device=Device,
    Stream=Stream,
    Event=Event,
    EventOptions=lambda timing_enabled: types.SimpleNamespace(timing_enabled=timing_enabled),
    Buffer=Buffer,
    LegacyPinnedMemoryResource=PinnedResource,
    utils=types.SimpleNamespace(StridedMemoryView=View),
)
"""Stands for the module ``cuda.core``."""
