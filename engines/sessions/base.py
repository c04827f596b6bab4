"""What a session is: one engine loaded on one device, run and no policy."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from engines.metadata import ModelMetadata
from engines.tensors import Array, Feeds, TensorSpec


@dataclass(frozen=True)
class SessionInfo:
    """What runs, where, proven rather than assumed.

    Attributes:
        backend: the key in the table of backends ("onnxruntime", "torch", "tensorrt", "tensorrt-rtx", "fake").
        device: "cpu", "cuda:0".
        provider: what the library says it runs on ("CPUExecutionProvider").
        versions: versions of the libraries involved ("onnxruntime": "1.31.1").
        max_batch: the largest batch the engine takes; None when nothing bounds it.
    """

    backend: str
    device: str
    provider: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    max_batch: int | None = None


@dataclass(frozen=True)
class StageTimes:
    """Seconds that the last run spent a stage, measured on the device.

    Attributes:
        copy_in: host to device; of a large input with the copying into page-locked memory that it overlaps.
        device: the engine itself.
        copy_out: device to host.
    """

    copy_in: float
    device: float
    copy_out: float


class Slot(Protocol):
    """A batch's place in a session: filled by the caller, run, read.

    Slots of one session overlap: while one computes, the next is filled. A slot is used in turns of ``inputs``,
    ``start`` and ``wait``, by the thread that has the session.

    Attributes:
        capacity: the largest batch.
    """

    capacity: int

    def inputs(self, batch: int) -> dict[str, Array]:
        """Writable views of exactly this batch, in the memory that the engine reads or that is copied to its device.

        What they hold at first is undefined.

        Raises:
            InputError: the slot or the engine takes no such batch.
            RunError: a batch is under way here, or the session is closed.
        """

    def start(self) -> None:
        """Put copy-in, run and copy-out under way; returns at once where there is a device.

        Raises:
            RunError: nothing was filled in, a batch is under way here, the session is closed, or the engine failed.
        """

    def done(self) -> bool:
        """Whether ``wait`` would return at once."""

    def wait(self) -> dict[str, Array]:
        """The outputs by name: views that are valid until this slot's next ``inputs`` or ``start``.

        Raises:
            RunError: nothing was started, the engine failed, or the session is closed.
        """


class Session(Protocol):
    """One engine loaded on one device.

    A session is owned by one thread at a time. ``run`` checks its feeds, runs the engine and gives
    arrays that belong to the caller.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The engine's inputs."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The engine's outputs."""

    @property
    def metadata(self) -> ModelMetadata | None:
        """What travelled with the model; None for a foreign engine."""

    @property
    def info(self) -> SessionInfo:
        """Backend, device, provider, versions."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the engine on one batch.

        Args:
            feeds: an array for every input, of its dtype and shape.

        Returns:
            An array for every output, by name.

        Raises:
            InputError: the feeds don't fit the inputs.
            RunError: the engine failed.
        """

    def slots(self, count: int = 2, *, max_batch: int | None = None) -> tuple[Slot, ...]:
        """Places for batches in the session's own memory; made once, and closed with the session.

        Args:
            count: how many: two overlap copies and computing, three also the caller's filling.
            max_batch: samples that each takes; None for the engine's largest batch, or a default where it has none.

        Raises:
            InputError: the engine takes no such batch, or the number makes no sense.
            RunError: the session has its slots already, or is closed.
            UnsupportedError: an input varies in more than its batch.
        """

    def stage_times(self) -> StageTimes | None:
        """Device-side times of the last run; None where there is no device apart from the host."""

    def close(self) -> None:
        """Give back what the session holds; safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
