"""What a measuring process and its owner say to each other: one request, one reply, over two pipes.

A message is ``(name, arguments)`` one way and ``(True, value)`` or ``(False, ToolkitError)`` back, both pickled.
The pipes belong to the two processes alone, so what is unpickled is what the other one pickled.
"""

from dataclasses import dataclass, field
from typing import Any

from engines.metadata import ModelMetadata
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.proof import Proof
from engines.tensors import TensorSpec

__all__ = ["OPEN_ARTIFACT", "Block", "Contestant", "Opened", "Proof"]

OPEN_ARTIFACT = "toolkit.loading:open_artifact"
"""The import string of the function that opens a session in the measuring process."""


@dataclass(frozen=True)
class Contestant:
    """One artifact and how it is to be run.

    Attributes:
        path: the checkpoint, graph or engine.
        name: what tables call it; the file's name unless given.
        backend, device: as for ``toolkit.load``: "auto" lets the artifact decide.
        threads: CPU threads; None leaves it to the backend.
        opener: the import string of a function ``(path, *, backend, device, threads, **options) -> Session``.
        options: further keyword arguments for the opener.
    """

    path: str
    name: str = ""
    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    opener: str = OPEN_ARTIFACT
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """What a measuring process says of the session that it has opened.

    Attributes:
        inputs, outputs, metadata, info: the session's own.
        open_seconds: from the call of the opener, imports of its libraries included, to a session.
        first_seconds: the first run, at the smallest batch the engine takes.
        notes: what its file left open, a line each.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: ModelMetadata | None
    info: SessionInfo
    open_seconds: float
    first_seconds: float
    notes: tuple[str, ...] = ()

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the engine takes; None when it varies."""
        shape = self.inputs[0].shape
        return shape[0] if shape and isinstance(shape[0], int) else None

    def refuses(self, batch: int) -> str | None:
        """Why a batch of this size can't run; None when it can."""
        if self.fixed_batch is not None and batch != self.fixed_batch:
            return f"the engine takes batches of exactly {self.fixed_batch}"
        if self.info.max_batch is not None and batch > self.info.max_batch:
            return f"the engine takes batches up to {self.info.max_batch}"
        return None


@dataclass(frozen=True)
class Block:
    """The runs of one turn.

    Attributes:
        seconds: each run from host arrays in to host arrays out.
        stages: each run's times on the device; empty where there is no device apart from the host.
    """

    seconds: tuple[float, ...]
    stages: tuple[StageTimes, ...] = ()
