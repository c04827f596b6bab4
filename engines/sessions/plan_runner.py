"""A plan on a stage's memory: an execution context a batch size, a CUDA graph a context, scratch memory for all."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engines.cuda_graph import CapturedGraph, capture
from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions.plan_profiles import ProfileRange, Shape, choose_profile
from engines.sessions.stage import Streams

MAX_LANES = 32
"""Execution contexts that a stage keeps, the most recently used; each holds a little device memory."""


class Lane:
    """One execution context, set to one profile, shapes and addresses, and what was captured of it.

    TensorRT leaves it undefined what a captured graph does once its context has been changed, so a
    context with a graph never is: another shape gets another context. They share buffers and scratch
    memory, which is safe because one stream runs them all.
    """

    def __init__(self, context: Any, complain: Callable[[str], RunError]) -> None:
        self.context, self._complain = context, complain
        self.shapes: tuple[Shape, ...] = ()
        self.outputs: dict[str, Shape] = {}
        self.warm = False
        self.graph: CapturedGraph | None = None
        self._addresses: dict[str, int] = {}

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

    def use_addresses(self, addresses: Mapping[str, int]) -> None:
        """Tell the context where its tensors are; only what has changed is set."""
        context = self.context
        for name, address in addresses.items():
            if self._addresses.get(name) == address:
                continue
            if not context.set_tensor_address(name, address):
                raise self._complain(f"take the address of '{name}'")
            self._addresses[name] = address

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


class Plan:
    """What the stages of one session have of its engine in common.

    Args:
        streams: of the session.
        profiles: the engine's profiles.
        dtypes: numpy's type of every input and output.
        new_context: makes an execution context of the engine.
        scratch: bytes of scratch memory to give the contexts; None when they bring their own.
        graphs: capture CUDA graphs.
        complain: makes the error for what the engine refused, with what its log says.

    Attributes:
        graph_problem: why CUDA graphs were given up; empty while they work.
    """

    def __init__(
        self,
        streams: Streams,
        profiles: Sequence[ProfileRange],
        dtypes: "Mapping[str, np.dtype[Any]]",
        new_context: Callable[[], Any],
        *,
        scratch: int | None,
        graphs: bool,
        complain: Callable[[str], RunError],
    ) -> None:
        self.streams, self.profiles, self.dtypes = streams, profiles, dict(dtypes)
        self.graphs, self.complain, self.graph_problem = graphs, complain, ""
        self._new_context: Callable[[], Any] | None = new_context
        self._scratch: tuple[Any, int] | None = None
        if scratch is not None:
            # One stream runs all contexts, so no two of them are ever at work together on this memory.
            size = max(scratch, 1)
            self._scratch = (streams.gpu.memory(size, streams.compute), size)

    def new_lane(self, profile: int) -> Lane:
        """A context set to a profile."""
        assert self._new_context is not None, "the plan is open"  # noqa: S101
        lane = Lane(self._new_context(), self.complain)
        if self._scratch is not None:
            memory, size = self._scratch
            context = lane.context
            context.set_device_memory(int(memory.handle), size)
        lane.use_profile(profile, self.streams.compute)
        return lane

    def capture(self, lane: Lane) -> None:
        """Capture a lane's run, or give up capturing for all of them and say why."""
        try:
            lane.capture(self.streams.compute)
        except RunError as error:
            # Some engines (with loops, say) can't be captured; they run kernel by kernel, and this says why.
            self.graphs, self.graph_problem = False, error.cause

    def close(self) -> None:
        """Give the scratch memory back, after the stages, and let go of the engine; safe to call twice."""
        self._new_context = None
        if self._scratch is not None:
            (memory, _), self._scratch = self._scratch, None
            memory.close(self.streams.compute)


class PlanProgram:
    """A plan on one stage's memory: a :class:`engines.sessions.stage.Program`.

    The memory is for the largest shapes of every profile; a run allocates nothing.

    Args:
        plan: shared with the session's other stages.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        profiles = plan.profiles
        self._inputs = list(profiles[0].maximum)
        self._outputs = [name for name in plan.dtypes if name not in profiles[0].maximum]
        self._addresses: dict[str, int] = {}
        self._lanes: OrderedDict[tuple[Any, ...], Lane] = OrderedDict()
        self._lane: Lane | None = None
        self._largest = self._sizes()

    def sizes(self, shapes: Mapping[str, Shape]) -> Mapping[str, int]:
        """Bytes of every tensor at the engine's largest shapes; raises InputError where no profile covers these."""
        choose_profile(self._plan.profiles, shapes)
        return self._largest

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Take the addresses of the stage's memory."""
        if self._addresses:
            # A graph has the addresses in it that it was captured with.
            self._close_lanes()
        self._addresses = dict(addresses)

    def prepare(self, shapes: Mapping[str, Shape], direct: Mapping[str, int]) -> Mapping[str, Shape]:
        """Choose the profile and the context, and capture its second run; gives the outputs' shapes."""
        plan = self._plan
        profile = choose_profile(plan.profiles, shapes)
        lane = self._lane = self._get(profile, shapes, elsewhere=bool(direct))
        lane.use_addresses({**self._addresses, **direct})
        if plan.graphs and lane.warm and lane.graph is None and not direct:
            plan.capture(lane)
        return lane.outputs

    def enqueue(self, stream: Any) -> None:
        """Put the prepared run on the stream."""
        assert self._lane is not None, "prepare() comes first"  # noqa: S101
        self._lane.enqueue(stream)

    def close(self) -> None:
        """Give back graphs and contexts."""
        self._close_lanes()

    def _close_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        self._lane = None

    def _sizes(self) -> dict[str, int]:
        """Bytes of the largest shape of every tensor; the outputs' follow from each profile's largest inputs."""
        largest = dict.fromkeys(self._plan.dtypes, 0)
        for index, profile in enumerate(self._plan.profiles):
            lane = self._get(index, profile.maximum)
            for name, shape in {**profile.maximum, **lane.outputs}.items():
                nbytes = int(np.prod(shape)) * self._plan.dtypes[name].itemsize
                largest[name] = max(largest[name], nbytes)
        return largest

    def _get(self, profile: int, shapes: Mapping[str, Shape], *, elsewhere: bool = False) -> Lane:
        """The context for these shapes.

        A context with a graph is never given another address, so inputs that lie elsewhere, perhaps every time
        in another place, have a context of their own, without a graph.
        """
        plan = self._plan
        key: tuple[Any, ...] = (profile,)
        if plan.graphs:
            key = (profile, "elsewhere") if elsewhere else (profile, *shapes.values())
        if key not in self._lanes:
            self._lanes[key] = plan.new_lane(profile)
            while len(self._lanes) > max(MAX_LANES, len(plan.profiles)):
                self._lanes.popitem(last=False)[1].close()
        self._lanes.move_to_end(key)
        lane = self._lanes[key]
        lane.use_shapes(shapes, self._outputs)
        return lane
