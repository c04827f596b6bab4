"""What a server is told: where it listens, what it takes, how it ends."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InputError
from toolkit.server.protocol.limits import Limits

MAX_BODY = 64 << 20
"""Bytes of a request: 100 pictures of 224x224 in FP32. Whoever has more sends several requests."""

MAX_HELD = 1 << 30
"""Bytes of all requests that a front holds at once: as many as may wait, of pictures of 224x224 in FP32, take 600 MB.
Without a bound each further client could fill :data:`MAX_BODY` more of the memory."""

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes of a message that gRPC can be told of: those of a C integer, which is also all that protobuf reads."""

DRAIN_DELAY = 1.0
"""Seconds between saying that the server isn't ready and closing its doors: balancers look at readiness first, and
clients are told meanwhile to come back on another connection."""

DRAIN_TIMEOUT = 30.0
"""Seconds that accepted requests get to be answered in; what supervisors (Kubernetes, systemd) wait for a process."""


@dataclass(frozen=True)
class FrontSettings:
    """What the fronts (HTTP, gRPC) need to know.

    Attributes:
        token: the bearer token that every request but those for health must carry; None for no token.
        limits: of bodies and tensors.
        access_log: whether each request is logged.
        max_held: bytes of all requests under way; one by itself is always taken.
    """

    token: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=lambda: Limits(max_body=MAX_BODY, max_elements=MAX_BODY))
    access_log: bool = False
    max_held: int = MAX_HELD


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and how it ends.

    Attributes:
        host: the address that both fronts are bound to.
        http_port, grpc_port: 0 for any free one, -1 for none.
        fronts: what they need to know.
        drain_delay: see :data:`DRAIN_DELAY`.
        drain_timeout: see :data:`DRAIN_TIMEOUT`.
        watch: whether files that are replaced are opened again.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    fronts: FrontSettings = field(default_factory=FrontSettings)
    drain_delay: float = DRAIN_DELAY
    drain_timeout: float = DRAIN_TIMEOUT
    watch: bool = True

    def __post_init__(self) -> None:
        """Reject times that can't be waited for."""
        for name in ("drain_delay", "drain_timeout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name.replace('_', '-')} is {getattr(self, name)} s", "give a number of seconds, 0 or more"
                )


@dataclass(frozen=True)
class ModelSettings:
    """How models are opened and batched.

    Attributes:
        devices: "auto", "cpu", "cuda:0", ...: one or several, each with ``instances`` sessions.
        instances: sessions of the engine on each device.
        backend: what runs it, or "auto": by the file.
        threads: CPU threads of each session; None leaves it to the backend.
        code: what makes the networks of checkpoints that hold weights alone, as ``toolkit.export`` takes it.
        max_batch, max_delay, queue: as :class:`toolkit.Batcher` takes them.
        decoders: threads that decode and resize pictures; None for as many as there are cores, up to 8.
        pictures: pictures that may wait for these threads.
    """

    devices: tuple[str, ...] = ("auto",)
    instances: int = 1
    backend: str = "auto"
    threads: int | None = None
    code: str | None = None
    max_batch: int | None = None
    max_delay: float = 0.002
    queue: int = 1024
    decoders: int | None = None
    pictures: int = 256


@dataclass(frozen=True)
class Source:
    """A model to be served: its name, and the file that it comes from."""

    name: str
    path: Path
