"""What all sessions share: one owner at a time, feeds checked, closed once."""

import abc
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np

from engines.errors import InputError, RunError
from engines.metadata import ModelMetadata
from engines.sessions.base import SessionInfo, StageTimes
from engines.tensors import Array, Feeds, TensorSpec, check_feeds


class OwnedSession(abc.ABC):
    """A session's frame; a backend adds ``_run`` and ``_release``.

    A run in one thread refuses a second one in another instead of waiting for it: two threads at one
    session are a mistake that would otherwise show as mixed-up answers or lost speed. ``close`` waits
    for a run in progress, so that nothing is freed under it.
    """

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

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the engine on one batch; see :meth:`engines.sessions.base.Session.run`."""
        if not self._owner.acquire(blocking=False):
            raise RunError(
                f"this {self._info.backend} session is already running in another thread",
                "give each thread a session of its own",
            )
        try:
            if self._closed:
                raise RunError(f"this {self._info.backend} session is closed", "open the engine again")
            batch = check_feeds(self._inputs, feeds)
            limit = self._info.max_batch
            if limit is not None and batch > limit:
                raise InputError(f"batch {batch} is larger than the engine's largest, {limit}", "split the batch")
            return self._run(feeds, batch)
        finally:
            self._owner.release()

    def stage_times(self) -> StageTimes | None:
        """Device-side times of the last run; None where there is no device apart from the host."""
        return None

    def close(self) -> None:
        """Give back what the session holds; waits for a run in progress, and is safe to call twice."""
        with self._owner:
            if not self._closed:
                self._closed = True
                self._release()

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
