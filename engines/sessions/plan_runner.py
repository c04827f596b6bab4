"""Runs a plan: buffers for its largest shapes, an execution context a shape, a CUDA graph a context."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engines.cuda import CudaDevice, StagedTensor, capture
from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions.base import StageTimes
from engines.sessions.plan_profiles import ProfileRange, Shape, choose_profile
from engines.tensors import Array

MAX_LANES = 32
"""Execution contexts that are kept, the most recently used; each holds a little device memory."""


class Lane:
    """One execution context, set to one profile and one set of shapes, and what was captured of it.

    TensorRT leaves it undefined what a captured graph does once its context has been changed, so a
    context with a graph never is: another shape gets another context. They share buffers and scratch
    memory, which is safe because one stream runs them all.
    """

    def __init__(self, context: Any, complain: Callable[[str], RunError]) -> None:
        self.context, self._complain = context, complain
        self.shapes: tuple[Shape, ...] = ()
        self.outputs: dict[str, Shape] = {}
        self.warm = False
        self.graph: Any = None

    def use_profile(self, profile: int, stream: Any) -> None:
        """Set the optimisation profile."""
        context = self.context
        if not context.set_optimization_profile_async(profile, int(stream.handle)):
            raise self._complain(f"take its profile {profile}")
        stream.sync()

    def use_shapes(self, shapes: Mapping[str, Shape], outputs: Sequence[str]) -> None:
        """Set every input's shape and read what the outputs' become."""
        wanted = tuple(shapes.values())
        if wanted == self.shapes:
            return
        context = self.context
        self.warm, self.shapes = False, ()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise InputError(f"the engine takes no '{name}' of shape {list(shape)}", "change the batch")
        if unknown := context.infer_shapes():
            raise UnsupportedError(
                f"the shapes of {', '.join(unknown)} depend on more than the inputs' shapes",
                "export the graph without inputs that hold shapes",
            )
        self.outputs = {name: self._output_shape(name) for name in outputs}
        self.shapes = wanted

    def _output_shape(self, name: str) -> Shape:
        context = self.context
        shape = tuple(int(size) for size in context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise UnsupportedError(
                f"the shape of the engine's output '{name}' depends on the data: {list(shape)}",
                "export the graph with outputs whose shape follows from the input's",
            )
        return shape

    def capture(self, stream: Any) -> None:
        """Capture a run as a CUDA graph.

        Only after a first run of the same shapes: it makes TensorRT finish lazy work that can't be captured.
        """
        context = self.context
        self.graph = capture(stream, lambda handle: bool(context.execute_async_v3(handle)))

    def enqueue(self, stream: Any) -> None:
        """Put one run on the stream: the captured graph, or kernel by kernel."""
        context, graph = self.context, self.graph
        if graph is not None:
            graph.launch(stream)
        elif not context.execute_async_v3(int(stream.handle)):
            raise self._complain("run")
        self.warm = True

    def close(self) -> None:
        """Give back the graph and the context."""
        if self.graph is not None:
            graph, self.graph = self.graph, None
            graph.close()
        self.context = None


class PlanRunner:
    """Stages, copies, runs and copies back the batches of one engine, on one stream.

    Every buffer is allocated here, for the largest shapes; a run allocates nothing but the caller's arrays.

    Args:
        device: the GPU.
        profiles: the engine's profiles.
        dtypes: numpy's type of every input and output.
        new_context: makes an execution context of the engine.
        scratch: bytes of scratch memory to give the contexts; None when they bring their own.
        graphs: capture CUDA graphs.
        complain: makes the error for what the engine refused, with what its log says.
    """

    def __init__(
        self,
        device: CudaDevice,
        profiles: Sequence[ProfileRange],
        dtypes: Mapping[str, "np.dtype[Any]"],
        new_context: Callable[[], Any],
        *,
        scratch: int | None,
        graphs: bool,
        complain: Callable[[str], RunError],
    ) -> None:
        self._device, self._profiles, self._dtypes = device, profiles, dict(dtypes)
        self._new_context, self._graphs, self._complain = new_context, graphs, complain
        self._inputs = list(profiles[0].maximum)
        self._outputs = [name for name in dtypes if name not in profiles[0].maximum]
        self._lanes: OrderedDict[tuple[Any, ...], Lane] = OrderedDict()
        self._staged: dict[str, StagedTensor] = {}
        self._scratch: tuple[Any, int] | None = None
        self._timers: list[Any] = []
        self._ran = False
        self.graph_problem = ""
        self._stream = device.stream()
        try:
            self._timers = [device.timer() for _ in range(4)]
            if scratch is not None:
                size = max(scratch, 1)
                self._scratch = (device.memory(size, self._stream), size)
            self._allocate()
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch; the arrays returned belong to the caller.

        Raises:
            InputError: no profile covers the batch.
            RunError: the engine refused to run.
        """
        self._device.make_current()
        self._ran = False
        shapes = {name: tuple(feeds[name].shape) for name in self._inputs}
        lane = self._lane(choose_profile(self._profiles, shapes), shapes)
        if self._graphs and lane.warm and lane.graph is None:
            self._try_capture(lane)
        stream, timers = self._stream, self._timers
        for name, shape in shapes.items():
            np.copyto(self._staged[name].host(self._dtypes[name], shape), feeds[name])
        stream.record(timers[0])
        for name, shape in shapes.items():
            self._staged[name].to_device(self._nbytes(name, shape), stream)
        stream.record(timers[1])
        lane.enqueue(stream)
        stream.record(timers[2])
        for name, shape in lane.outputs.items():
            self._staged[name].to_host(self._nbytes(name, shape), stream)
        stream.record(timers[3])
        stream.sync()
        self._ran = True
        return {n: self._staged[n].host(self._dtypes[n], shape).copy() for n, shape in lane.outputs.items()}

    def stage_times(self) -> StageTimes | None:
        """The device's own times of the last run; None before the first."""
        if not self._ran:
            return None
        start, copied, ran, done = self._timers
        return StageTimes((copied - start) / 1e3, (ran - copied) / 1e3, (done - ran) / 1e3)

    def close(self) -> None:
        """Give back graphs, contexts, buffers, events and the stream."""
        self._device.make_current()
        stream = self._stream
        stream.sync()
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        for tensor in self._staged.values():
            tensor.close(stream)
        self._staged.clear()
        if self._scratch is not None:
            (memory, _), self._scratch = self._scratch, None
            memory.close(stream)
        for timer in self._timers:
            timer.close()
        self._timers = []
        stream.sync()
        stream.close()

    def _allocate(self) -> None:
        """Buffers for the largest shape of every tensor; the outputs' follow from each profile's largest inputs."""
        largest = dict.fromkeys(self._dtypes, 0)
        lanes = [self._lane(index, profile.maximum) for index, profile in enumerate(self._profiles)]
        for lane, profile in zip(lanes, self._profiles, strict=True):
            for name, shape in {**profile.maximum, **lane.outputs}.items():
                largest[name] = max(largest[name], self._nbytes(name, shape))
        self._staged = {name: StagedTensor(self._device, size, self._stream) for name, size in largest.items()}
        self._stream.sync()
        for lane in lanes:
            self._bind(lane)

    def _lane(self, profile: int, shapes: Mapping[str, Shape]) -> Lane:
        key = (profile, *shapes.values()) if self._graphs else (profile,)
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(self._new_context(), self._complain)
            if self._scratch is not None:
                memory, size = self._scratch
                context = lane.context
                context.set_device_memory(int(memory.handle), size)
            lane.use_profile(profile, self._stream)
            if self._staged:
                self._bind(lane)
            self._lanes[key] = lane
            while len(self._lanes) > max(MAX_LANES, len(self._profiles)):
                self._lanes.popitem(last=False)[1].close()
        self._lanes.move_to_end(key)
        lane.use_shapes(shapes, self._outputs)
        return lane

    def _bind(self, lane: Lane) -> None:
        context = lane.context
        for name, tensor in self._staged.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._complain(f"take the address of '{name}'")

    def _try_capture(self, lane: Lane) -> None:
        try:
            lane.capture(self._stream)
        except RunError as error:
            # Some engines (with loops, say) can't be captured; they run kernel by kernel, and this says why.
            self._graphs, self.graph_problem = False, error.cause

    def _nbytes(self, name: str, shape: Shape) -> int:
        return int(np.prod(shape)) * self._dtypes[name].itemsize
