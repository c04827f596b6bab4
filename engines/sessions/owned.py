"""What all sessions share: one owner at a time, feeds checked, closed once."""

import abc
import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from engines.errors import InputError, RunError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.sessions.base import SessionInfo, Slot, StageTimes
from engines.sessions.device_arrays import DeviceArray, DeviceInput
from engines.sessions.pipeline import Pipeline
from engines.sessions.slots import DEFAULT_CAPACITY, DeviceSlot, HostSlot, OwnedSlot
from engines.tensors import Array, Feeds, TensorSpec, check_feeds


class OwnedSession(abc.ABC):
    """A session's frame; a backend adds ``_run`` and ``_release``.

    A run in one thread refuses a second one in another instead of waiting for it: two threads at one
    session are a mistake that would otherwise show as mixed-up answers or lost speed. ``close`` waits
    for a run in progress, so that nothing is freed under it.

    A backend on a GPU sets ``_pipeline``: then feeds may be arrays that already are on the device, and slots
    overlap.
    """

    any_thread = True
    """Whether runs in one thread after the other are as good as all in one."""

    _pipeline: Pipeline | None = None

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        metadata: ModelMetadata | None,
        info: SessionInfo,
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._metadata, self._info = metadata, info
        self._owner = threading.Lock()
        self._closed = False
        self._slots: tuple[OwnedSlot, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The engine's inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The engine's outputs."""
        return self._outputs

    @property
    def metadata(self) -> ModelMetadata | None:
        """What travelled with the model; None for a foreign engine."""
        return self._metadata

    @property
    def info(self) -> SessionInfo:
        """Backend, device, provider, versions."""
        return self._info

    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""
        return self._closed

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the engine on one batch; see :meth:`engines.sessions.base.Session.run`.

        On a GPU a feed may also be an array that is there already: anything with ``__dlpack__`` or
        ``__cuda_array_interface__``. It isn't copied, and must not change until the run has ended.
        """
        with self.owned():
            adopted = self.adopt(feeds)
            return self._run(adopted, self._checked(adopted))

    def run_on_device(self, feeds: Feeds) -> dict[str, DeviceArray]:
        """As :meth:`run`, with the outputs left on the GPU, valid until the session's next run.

        Raises:
            UnsupportedError: the session has no memory on a GPU.
        """
        with self.owned():
            adopted = self.adopt(feeds)
            batch = self._checked(adopted)
            if self._pipeline is None:
                raise UnsupportedError(
                    f"this {self._info.backend} session has no memory of its own on a GPU", "use run()"
                )
            with self.guarded(batch):
                return self._pipeline.run_on_device(adopted)

    def slots(self, count: int = 2, *, max_batch: int | None = None) -> tuple[Slot, ...]:
        """Places for batches, made once; see :meth:`engines.sessions.base.Session.slots`."""
        with self.owned():
            if self._slots:
                raise RunError(f"this {self._info.backend} session has its slots already", "keep what slots() gave")
            if count < 1:
                raise InputError(f"{count} slots make no sense", "ask for at least 1")
            capacity = self._capacity(max_batch)
            with self.guarded(capacity):
                if self._pipeline is None:
                    self._slots = tuple(HostSlot(self, capacity) for _ in range(count))
                else:
                    with self._pipeline.new_stages(count) as stages:
                        self._slots = tuple(DeviceSlot(self, stage, capacity) for stage in stages)
            return self._slots

    def check_open(self) -> None:
        """Raises RunError when the session is closed."""
        if self._closed:
            raise RunError(f"this {self._info.backend} session is closed", "open the engine again")

    def adopt(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """``feeds`` with what is on this session's GPU recognised as such."""
        return dict(feeds) if self._pipeline is None else self._pipeline.adopt(feeds)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Have the session for the block's time; raises RunError when another thread has it, or it is closed."""
        owner = self._owner
        if not owner.acquire(blocking=False):
            raise RunError(
                f"this {self._info.backend} session is already running in another thread",
                "give each thread a session of its own",
            )
        try:
            self.check_open()
            yield
        finally:
            owner.release()

    def reclaim(self) -> None:
        """Free it of a thread that an interrupt took out of a run; for who knows that nobody runs it.

        An interrupt may come between having the lock and the block that gives it back, so there is another from now
        on; should the first be given back after all, that is of no effect.
        """
        self._owner = threading.Lock()

    @contextlib.contextmanager
    def guarded(self, batch: int) -> Iterator[None]:
        """Turn what the library raises in the block, on a batch of this size, into a RunError."""
        yield

    def stage_times(self) -> StageTimes | None:
        """Device-side times of the last run; None where there is no device apart from the host."""
        return None

    def close(self) -> None:
        """Give back what the session holds; waits for a run in progress, and is safe to call twice."""
        with self._owner:
            if not self._closed:
                self._closed = True
                self._release()

    def _checked(self, adopted: Mapping[str, Any]) -> int:
        """The batch size of feeds that fit the inputs; raises InputError for others."""
        batch = check_feeds(
            self._inputs,
            {name: value.stand_in if isinstance(value, DeviceInput) else value for name, value in adopted.items()},
        )
        limit = self._info.max_batch
        if limit is not None and batch > limit:
            raise InputError(f"batch {batch} is larger than the engine's largest, {limit}", "split the batch")
        return batch

    def _capacity(self, max_batch: int | None) -> int:
        limit = self._info.max_batch
        if max_batch is None:
            return limit or DEFAULT_CAPACITY
        if max_batch < 1 or (limit is not None and max_batch > limit):
            raise InputError(
                f"the engine takes no batches of {max_batch}",
                "give at least 1" if limit is None else f"give 1 to {limit}",
            )
        return max_batch

    @abc.abstractmethod
    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        """Run checked feeds; the arrays returned belong to the caller."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Give back memory, streams and handles; called once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def plain(array: Array) -> Array:
    """``array`` as libraries take it: contiguous, in the machine's byte order; copied only if it must be."""
    native: np.dtype[Any] = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, native)


def device_index(device: str) -> int:
    """The number of a CUDA device: ``"cuda"`` → 0, ``"cuda:1"`` → 1.

    Raises:
        InputError: it is not the name of a CUDA device.
    """
    name, _, number = device.partition(":")
    if name != "cuda" or (number and not number.isdecimal()) or device.endswith(":"):
        raise InputError(f"there is no device '{device}'", "devices are auto, cpu, cuda:0, cuda:1, ...")
    return int(number or 0)
