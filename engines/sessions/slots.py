"""Slots: places for batches in a session's own memory, so that the next is filled while one computes."""

import abc
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engines.errors import InputError, RunError, UnsupportedError
from engines.optional import require
from engines.sessions.device_arrays import DeviceArray, DeviceInput
from engines.tensors import Array, Feeds, TensorSpec, check_feeds

if TYPE_CHECKING:
    from engines.sessions.stage import Stage

DEFAULT_CAPACITY = 32
"""Samples in a slot of a session that has no largest batch, unless the caller says: enough to keep a machine's
cores or a GPU busy, and a few megabytes of pixels."""


def numpy_type(spec: TensorSpec) -> "np.dtype[Any]":
    """The type of a tensor in numpy; BF16 needs the package ``ml_dtypes``.

    Raises:
        MissingLibraryError: the tensor is BF16 and ``ml_dtypes`` isn't installed.
    """
    if spec.dtype == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(require("ml_dtypes", "A BF16 input or output", "onnxruntime").bfloat16)
        return bfloat16
    return np.dtype(spec.dtype)


def batch_shapes(inputs: Sequence[TensorSpec], batch: int) -> dict[str, tuple[int, ...]]:
    """The shape of every input at a batch size.

    Raises:
        InputError: the inputs are of another, fixed batch size.
        UnsupportedError: an input varies in more than its batch, so its memory can't be laid out.
    """
    name = inputs[0].shape[0] if inputs and inputs[0].shape else None
    if isinstance(name, int) and batch != name:
        raise InputError(f"the engine takes batches of exactly {name}, not {batch}", f"give {name} samples")
    shapes = {}
    for spec in inputs:
        if other := [size for size in spec.shape if isinstance(size, str) and size != name]:
            raise UnsupportedError(
                f"the input '{spec.name}' varies in '{other[0]}', not only in its batch: it can't be laid out ahead",
                "use run(), or export the graph with the batch as its only free dimension",
            )
        shapes[spec.name] = tuple(batch if size == name else int(size) for size in spec.shape)
    return shapes


class SlotOwner(Protocol):
    """What a slot needs of its session (:class:`engines.sessions.owned.OwnedSession`)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def closed(self) -> bool: ...

    def run(self, feeds: Feeds) -> dict[str, Array]: ...

    def check_open(self) -> None: ...

    def adopt(self, feeds: Mapping[str, Any]) -> dict[str, Any]: ...

    def owned(self) -> AbstractContextManager[None]: ...

    def guarded(self, batch: int) -> AbstractContextManager[None]: ...


class OwnedSlot(abc.ABC):
    """A slot's frame: the order of its calls; what runs where is added by :class:`HostSlot` and :class:`DeviceSlot`.

    As with ``run``, one thread at a time has the session and its slots.

    Attributes:
        capacity: the largest batch.
    """

    def __init__(self, session: SlotOwner, capacity: int) -> None:
        self._session, self.capacity = session, capacity
        self._batch = 0
        self._under_way = False
        self._results: dict[str, Array] | None = None

    def inputs(self, batch: int) -> dict[str, Array]:
        """Writable views of exactly this batch, by input; what they hold at first is undefined.

        Raises:
            InputError: the slot or the engine takes no such batch.
            RunError: a batch is under way here, or the session is closed.
        """
        self._at_rest()
        if not 1 <= batch <= self.capacity:
            raise InputError(
                f"the slot takes 1 to {self.capacity} samples, not {batch}", "split the batch, or make larger slots"
            )
        views = self._views(batch)
        self._batch, self._results = batch, None
        return views

    def start(self) -> None:
        """Put copy-in, run and copy-out under way; on the host it runs right here.

        What ``inputs`` gave must not be written to before ``wait`` has returned.

        Raises:
            RunError: nothing was filled in, a batch is under way here, the session is closed, or the engine failed.
        """
        self._at_rest()
        if not self._batch:
            raise RunError("the slot has no batch to run", "fill what inputs(batch) gives, then start()")
        self._results = None
        self._launch(self._batch)
        self._under_way = True

    def done(self) -> bool:
        """Whether ``wait`` would return at once; of a closed session it does, with an error."""
        if self._results is not None or not self._under_way:
            return self._results is not None
        return self._session.closed or self._finished()

    def wait(self) -> dict[str, Array]:
        """The outputs by name: views that are valid until this slot's next ``inputs`` or ``start``.

        Raises:
            RunError: nothing was started, the engine failed, or the session is closed.
        """
        self._session.check_open()
        if self._results is not None:
            return self._results
        if not self._under_way:
            raise RunError("the slot has nothing under way", "start() it first")
        # Whatever comes of it: nothing is under way any more.
        self._under_way = False
        self._results = self._collect(self._batch)
        return self._results

    def _at_rest(self) -> None:
        self._session.check_open()
        if self._under_way:
            raise RunError("the slot's batch is under way", "wait() for it before the next")

    @abc.abstractmethod
    def _views(self, batch: int) -> dict[str, Array]:
        """Writable arrays for a batch, in the memory that the engine reads or that is copied to its device."""

    @abc.abstractmethod
    def _launch(self, batch: int) -> None:
        """Start running the batch."""

    @abc.abstractmethod
    def _finished(self) -> bool:
        """Whether what was started is done."""

    @abc.abstractmethod
    def _collect(self, batch: int) -> dict[str, Array]:
        """Wait for what was started, and its outputs."""


class HostSlot(OwnedSlot):
    """A slot of a session that runs where its caller is: arrays that are allocated once, run in ``start``."""

    def __init__(self, session: SlotOwner, capacity: int) -> None:
        super().__init__(session, capacity)
        shapes = batch_shapes(session.inputs, capacity)
        self._arrays = {spec.name: np.empty(shapes[spec.name], numpy_type(spec)) for spec in session.inputs}
        self._outputs: dict[str, Array] = {}

    def _views(self, batch: int) -> dict[str, Array]:
        shapes = batch_shapes(self._session.inputs, batch)
        # The batch is the first dimension, so a smaller one is the beginning of the memory.
        return {
            name: array.reshape(-1)[: int(np.prod(shapes[name]))].reshape(shapes[name])
            for name, array in self._arrays.items()
        }

    def _launch(self, batch: int) -> None:
        self._outputs = self._session.run(self._views(batch))

    def _finished(self) -> bool:
        return True

    def _collect(self, batch: int) -> dict[str, Array]:
        return self._outputs


class DeviceSlot(OwnedSlot):
    """A slot of a session on a GPU: page-locked and device memory of its own, on streams that it shares.

    Args:
        session: whose slot it is.
        stage: its memory and events.
        capacity: the largest batch.
    """

    def __init__(self, session: SlotOwner, stage: "Stage", capacity: int) -> None:
        super().__init__(session, capacity)
        self._stage = stage
        self._foreign: dict[str, DeviceInput] = {}
        stage.reserve(batch_shapes(session.inputs, capacity))

    def take(self, feeds: Mapping[str, Any]) -> None:
        """Run the next batch on inputs that already are on this device, without a copy; instead of ``inputs``.

        Args:
            feeds: for every input an array that exports ``__dlpack__`` or ``__cuda_array_interface__``. None of
                them may change until ``wait`` has returned.

        Raises:
            InputError: they don't fit the inputs, or aren't on this device.
            RunError: a batch is under way here, or the session is closed.
        """
        self._at_rest()
        adopted = self._session.adopt(feeds)
        foreign = {name: value for name, value in adopted.items() if isinstance(value, DeviceInput)}
        stand_ins = {
            name: value.stand_in if isinstance(value, DeviceInput) else value for name, value in adopted.items()
        }
        batch = check_feeds(self._session.inputs, stand_ins)
        if len(foreign) < len(adopted):
            host = min(adopted.keys() - foreign.keys())
            raise InputError(f"input {host} is in host memory", "fill inputs(batch) instead, or use run()")
        self.inputs(batch)
        self._foreign = foreign

    def on_device(self) -> dict[str, DeviceArray]:
        """The outputs on the device, after ``wait``; valid as long as its views are.

        Raises:
            RunError: the slot hasn't run.
        """
        if self._results is None:
            raise RunError("the slot has no outputs yet", "start() it and wait() for it")
        return self._stage.on_device()

    def _views(self, batch: int) -> dict[str, Array]:
        self._foreign = {}
        return self._stage.views(batch_shapes(self._session.inputs, batch))

    def _launch(self, batch: int) -> None:
        with self._session.owned(), self._session.guarded(batch):
            self._stage.launch(batch_shapes(self._session.inputs, batch), self._foreign)

    def _finished(self) -> bool:
        with self._session.guarded(self._batch):
            return self._stage.finished()

    def _collect(self, batch: int) -> dict[str, Array]:
        with self._session.guarded(batch):
            self._stage.wait()
        return self._stage.on_host()
