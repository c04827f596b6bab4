"""A model that is open: its sessions, the batcher before them, and what it is."""

import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, UnsupportedError
from engines.passport import Passport
from engines.sessions.base import Session
from engines.tensors import Array
from toolkit.runtime.batcher import Batcher
from toolkit.runtime.batching.stats import BatcherStats
from toolkit.runtime.head import Head
from toolkit.server.plane.opening import Origin, open_again, open_alike
from toolkit.server.plane.tensors import cut, feeds_of, join, wanted
from toolkit.server.protocol import datatypes
from toolkit.server.protocol.classification import classes
from toolkit.server.protocol.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    Tensor,
    TensorMetadata,
    TooLargeError,
)
from toolkit.server.settings import ModelSettings

if TYPE_CHECKING:
    from toolkit.runtime.batching.answer import Answer

VERSION = "1"
"""The version of every model. A file that was replaced is still it: clients who name a version go on."""

_PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "tensorrt-rtx": "tensorrt_rtx_plan",
    "torch": "pytorch_libtorch",
}
"""The protocol's word for what runs a model, where it has one; else it is the backend's name."""


class ServedModel:
    """One opening of a model. Made and closed in a thread, for both take their time; asked in the event loop.

    Args:
        origin: where it comes from.
        settings: how it is opened and batched.
        generation: which opening of its name this is, from 1.

    Attributes:
        batcher: of its sessions.
        head: what makes a classifier of it; None where it is none, and then ``no_head`` says why.
        metadata: what it is, as the protocol tells it.
        stamp: its files as they were just before they were read.

    Raises:
        ToolkitError: it can't be opened, doesn't answer, or can't be batched.
    """

    def __init__(self, origin: Origin, settings: ModelSettings, generation: int = 1) -> None:
        self.name, self.generation = origin.name, generation
        devices = [device for device in settings.devices for _ in range(settings.instances)]
        stamp, passport, self._sessions = open_alike(origin, devices)
        self.stamp = stamp
        try:
            on = weakref.WeakKeyDictionary(zip(self._sessions, devices, strict=True))

            def restart(dead: Session) -> Session:
                session = open_again(origin, on[dead], stamp)
                on[session] = on[dead]
                return session

            self.head, self.no_head = _head_of(self._sessions[0])
            inputs, outputs = (
                tuple(_without_batch(datatypes.metadata(spec)) for spec in specs)
                for specs in (self._sessions[0].inputs, self._sessions[0].outputs)
            )
            # A device that is lost takes all its sessions along: a request may meet each of them once.
            self.batcher = Batcher(
                self._sessions, settings.max_batch, settings.max_delay, settings.queue,
                restart=restart, retries=len(self._sessions),
            )  # fmt: skip
        except BaseException:
            self._close_sessions()
            raise
        self._limit = max(settings.queue, self.batcher.max_batch)
        self._types = {one.name: one.datatype for one in outputs}
        info = self._sessions[0].info
        self.metadata = ModelMetadata(
            origin.name, (VERSION,), _PLATFORMS.get(info.backend, info.backend), inputs, outputs,
            self.batcher.max_batch, self._facts(origin, settings, passport),
        )  # fmt: skip

    async def infer(self, request: InferRequest, timeout: float | None) -> InferResponse:
        """Answer a request; see :meth:`toolkit.server.plane.interface.Plane.infer`.

        One of more samples than a batch takes is cut, and its answers put together.

        Raises:
            ToolkitError: as the batcher's, whose RunError may only mean that this is closed.
        """
        metadata = self.metadata
        outputs = wanted(request, metadata.outputs)
        feeds, count = feeds_of(request, metadata.inputs)
        results: Mapping[str, Array]
        if count <= metadata.max_batch:
            results = await self.batcher.submit(feeds, timeout=timeout, priority=request.priority)
        else:
            results = await self._in_parts(feeds, count, timeout, request.priority)
        tensors = tuple(self._output(one, results) for one in outputs)
        return InferResponse(metadata.name, VERSION, tensors, request.id)

    def alive(self) -> bool:
        """Whether a session is at work, or about to be."""
        return self.batcher.stats().sessions > 0

    def stats(self) -> BatcherStats:
        """What the batcher has done."""
        return self.batcher.stats()

    def close(self, timeout: float | None = None) -> None:
        """Answer what was accepted, and close the sessions; in a thread, for it waits.

        Args:
            timeout: seconds for which requests that wait are still run; None for as long as it takes.
        """
        self.batcher.close(timeout)
        self._close_sessions()

    async def _in_parts(
        self, feeds: Mapping[str, Array], count: int, timeout: float | None, priority: int
    ) -> Mapping[str, Array]:
        if count > self._limit:
            raise TooLargeError(
                f"the request has {count} samples, and the queue holds {self._limit}",
                "send fewer samples in one request, or serve with a longer --queue",
            )
        answers: list[Answer] = []
        try:
            parts = cut(feeds, count, self.metadata.max_batch)
            answers.extend(self.batcher.submit(part, timeout=timeout, priority=priority) for part in parts)
            return join([await answer for answer in answers])
        except BaseException:
            # Without one part the others are of no use; those that run already are not waited for.
            for answer in answers:
                answer.cancel()
            raise

    def _output(self, asked: RequestedOutput, results: Mapping[str, Array]) -> Tensor:
        tensor = Tensor(asked.name, self._types[asked.name], results[asked.name])
        if asked.classes:
            return classes(tensor, asked.classes, self.head.labels if self.head else ())
        return tensor

    def _facts(self, origin: Origin, settings: ModelSettings, passport: Passport | None) -> Mapping[str, Any]:
        info, carried = self._sessions[0].info, self._sessions[0].metadata
        devices = list(dict.fromkeys(session.info.device for session in self._sessions))
        return {
            "file": origin.path.name if origin.path is not None else None,
            "backend": info.backend,
            "provider": info.provider,
            "versions": dict(info.versions),
            "device": devices[0],
            "devices": devices,
            "instances": len(self._sessions),
            "max_delay": settings.max_delay,
            "queue": settings.queue,
            "generation": self.generation,
            "opened": datetime.now(UTC).isoformat(timespec="seconds"),
            "architecture": carried.architecture if carried else None,
            "precision": passport.precision if passport else None,
            "classifier": self.head is not None,
            "no_classifier": self.no_head or None,
            "labels": list(self.head.labels) if self.head else [],
            "preprocess": self.head.preprocess.to_json() if self.head else None,
            # Without the command that built it, which names folders of another machine.
            "passport": {**passport.to_json(), "command": None} if passport else None,
        }

    def _close_sessions(self) -> None:
        for session in self._sessions:
            session.close()


def _head_of(session: Session) -> tuple[Head | None, str]:
    try:
        return Head.of(session.inputs, session.outputs, session.metadata), ""
    except (InputError, UnsupportedError) as error:
        return None, error.cause


def _without_batch(tensor: TensorMetadata) -> TensorMetadata:
    """The tensor with any number of samples: an engine that is fixed to one is filled up."""
    return TensorMetadata(tensor.name, tensor.datatype, (-1, *tensor.shape[1:]))
