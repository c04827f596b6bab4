"""One batch's way through a GPU: copied in, run and copied out on a stream each, ordered by events."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from engines.cuda import CudaDevice, StagedTensor
from engines.errors import UnsupportedError
from engines.sessions.base import StageTimes
from engines.sessions.device_arrays import DeviceArray, DeviceInput
from engines.sessions.plan_profiles import Shape
from engines.tensors import Array


class Program(Protocol):
    """An engine made ready to run on the memory of one stage."""

    def sizes(self, shapes: Mapping[str, Shape]) -> Mapping[str, int]:
        """Bytes that every input and output needs, for inputs of these shapes."""

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Take the device addresses of every input and output; called again when they have moved."""

    def prepare(self, shapes: Mapping[str, Shape], direct: Mapping[str, int]) -> Mapping[str, Shape]:
        """Get ready for a run.

        Args:
            shapes: of every input.
            direct: addresses of inputs that are read from elsewhere than their bound memory, for this run.

        Returns:
            The shape of every output.
        """

    def enqueue(self, stream: Any) -> None:
        """Put the run that was prepared on a stream."""

    def close(self) -> None:
        """Give back what was made for this stage; nothing is under way."""


class Streams:
    """The three streams of a session: copies in, runs and copies out overlap where events don't forbid it."""

    def __init__(self, gpu: CudaDevice) -> None:
        self.gpu = gpu
        self.copy_in, self.compute, self.copy_out = (gpu.stream() for _ in range(3))

    def sync(self) -> None:
        """Wait until nothing is under way."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.sync()

    def settle(self) -> None:
        """As :meth:`sync`, for closing: on a device that has failed nothing is under way, and waiting fails too."""
        with contextlib.suppress(Exception):
            self.sync()

    def close(self) -> None:
        """Give the streams back."""
        self.settle()
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.close()


class Stage:
    """What one batch needs on its way: page-locked and device memory, a program on it, and six events.

    Only one batch at a time is under way in a stage; its owner waits for it before the next. So within a stage
    nothing is overwritten while it is read, and between stages no memory is shared but the engine's scratch,
    which the one compute stream orders.

    Args:
        streams: shared with the other stages of the session.
        dtypes: numpy's type of every input and output.
        program: the engine on this stage's memory; the stage closes it.
    """

    def __init__(self, streams: Streams, dtypes: "Mapping[str, np.dtype[Any]]", program: Program) -> None:
        self._streams, self._dtypes, self._program = streams, dtypes, program
        self._staged: dict[str, StagedTensor] = {}
        self._held: tuple[Any, ...] = ()
        self._outputs: Mapping[str, Shape] = {}
        self._generation, self._ran, self._to_host = 0, False, True
        self._timers = [streams.gpu.timer() for _ in range(6)]

    def reserve(self, shapes: Mapping[str, Shape]) -> None:
        """Make the memory large enough for inputs of these shapes; nothing happens where it is."""
        sizes = self._program.sizes(shapes)
        if self._staged and all(size <= self._staged[name].nbytes for name, size in sizes.items()):
            return
        stream = self._streams.compute
        self._streams.gpu.make_current()
        self._generation += 1
        for tensor in self._staged.values():
            tensor.close(stream)
        self._staged.clear()
        made: dict[str, StagedTensor] = {}
        try:
            for name, size in sizes.items():
                made[name] = StagedTensor(self._streams.gpu, size, stream)
            # Memory is allocated in the order of the compute stream, and the copies run on others.
            stream.sync()
        except BaseException:
            # All or none: a smaller batch may still fit.
            for tensor in made.values():
                tensor.close(stream)
            raise
        self._staged = made
        self._program.bind({name: tensor.address for name, tensor in self._staged.items()})

    def views(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        """The page-locked memory of the inputs, as arrays of these shapes."""
        self.reserve(shapes)
        return {name: self._staged[name].host(self._dtypes[name], shape) for name, shape in shapes.items()}

    def launch(
        self,
        shapes: Mapping[str, Shape],
        foreign: Mapping[str, DeviceInput],
        fill: Callable[[str], Iterable[tuple[int, int]]] | None = None,
        *,
        to_host: bool = True,
    ) -> None:
        """Put a batch under way and return.

        Args:
            shapes: of every input.
            foreign: inputs that are on the device already; the others are in what :meth:`views` gave.
            fill: puts an input there only now, and tells its pieces as :meth:`Copier.copy` does; None when
                everything is there.
            to_host: copy the outputs to the host.
        """
        streams = self._streams
        streams.gpu.make_current()
        self._generation += 1
        self._ran, self._to_host = False, to_host
        self._held = tuple(value.owner for value in foreign.values())
        try:
            direct = {name: value.address for name, value in foreign.items() if value.aligned}
            self._outputs = self._program.prepare(shapes, direct)
            self._enqueue(shapes, foreign, direct, fill)
        except BaseException:
            # What was put under way before the failure must not write into memory that is used again.
            streams.settle()
            self._held = ()
            raise

    def _enqueue(
        self,
        shapes: Mapping[str, Shape],
        foreign: Mapping[str, DeviceInput],
        direct: Mapping[str, int],
        fill: Callable[[str], Iterable[tuple[int, int]]] | None,
    ) -> None:
        copy_in, compute, copy_out = self._streams.copy_in, self._streams.compute, self._streams.copy_out
        began, copied, run, computed, answered, finished = self._timers
        copy_in.record(began)
        for name, shape in shapes.items():
            if name not in foreign:
                for start, nbytes in fill(name) if fill else [(0, self._nbytes(name, shape))]:
                    self._staged[name].to_device(nbytes, copy_in, start)
            elif name not in direct:
                value = foreign[name]
                self._staged[name].from_elsewhere(value.address, value.nbytes, value.owner, copy_in)
        copy_in.record(copied)
        compute.wait(copied)
        compute.record(run)
        self._program.enqueue(compute)
        compute.record(computed)
        copy_out.wait(computed)
        copy_out.record(answered)
        if self._to_host:
            for name, shape in self._outputs.items():
                self._staged[name].to_host(self._nbytes(name, shape), copy_out)
        copy_out.record(finished)

    def finished(self) -> bool:
        """Whether the batch is through."""
        self._streams.gpu.make_current()
        return bool(self._timers[5].is_done)

    def wait(self) -> None:
        """Wait until the batch is through."""
        self._streams.gpu.make_current()
        finished = self._timers[5]
        finished.sync()
        self._held = ()
        self._ran = True

    def on_host(self) -> dict[str, Array]:
        """The outputs in page-locked memory: views, until the next launch."""
        return {name: self._staged[name].host(self._dtypes[name], shape) for name, shape in self._outputs.items()}

    def on_device(self) -> dict[str, DeviceArray]:
        """The outputs in device memory, until the next launch."""
        generation, arrays = self._generation, {}
        for name, shape in self._outputs.items():
            dtype = self._dtypes[name]
            if dtype.kind == "V":
                raise UnsupportedError(f"the output '{name}' is BF16, which has no name outside", "use run()")
            buffer = self._staged[name].on_device(self._nbytes(name, shape))
            arrays[name] = DeviceArray(
                self._streams.gpu, name, buffer, dtype, shape, lambda: generation == self._generation
            )
        return arrays

    def times(self) -> StageTimes | None:
        """The device's own times of the last batch, without waiting for other batches; None before the first."""
        if not self._ran:
            return None
        began, copied, run, computed, answered, finished = self._timers
        return StageTimes((copied - began) / 1e3, (computed - run) / 1e3, (finished - answered) / 1e3)

    def close(self) -> None:
        """Give back the program, the memory and the events; nothing may be under way."""
        self._generation += 1
        self._ran = False
        self._program.close()
        for tensor in self._staged.values():
            tensor.close(self._streams.compute)
        self._staged.clear()
        for timer in self._timers:
            timer.close()
        self._timers = []

    def _nbytes(self, name: str, shape: Shape) -> int:
        return int(np.prod(shape)) * self._dtypes[name].itemsize
