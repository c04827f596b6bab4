"""What the fronts (HTTP, gRPC, Ray) ask of the data plane."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from toolkit.runtime.predictor import Prediction
from toolkit.server.plane.gate import Gate
from toolkit.server.protocol.messages import InferRequest, InferResponse, ModelMetadata


@dataclass(frozen=True)
class Classification:
    """What a picture shows, and how long each stage took.

    Attributes:
        model: which one answered.
        prediction: the likeliest classes.
        seconds: of each stage in turn: "decode" (and resize, in a worker thread), "wait" (in the queue), "stage"
            (copying the batch to the engine), "run" (the engine, with the batch it was in), "total".
        batch: how many samples ran together.
    """

    model: str
    prediction: Prediction
    seconds: Mapping[str, float] = field(default_factory=dict)
    batch: int = 1


@dataclass(frozen=True)
class ModelState:
    """A model in the index: ``state`` is "READY", "LOADING" or "UNAVAILABLE", with the reason."""

    name: str
    version: str
    state: str
    reason: str = ""


class Plane(Protocol):
    """The data plane. Its coroutines belong to one event loop; the plain methods never block."""

    def live(self) -> bool:
        """Whether the process works at all."""

    def ready(self) -> bool:
        """Whether every model can answer and nothing drains."""

    def draining(self) -> bool:
        """Whether it ends: fronts tell their clients to go elsewhere, and still answer."""

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model can answer.

        Raises:
            UnknownModelError: there is none of that name or version.
        """

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """What a model is.

        Raises:
            UnknownModelError: there is none of that name or version.
            UnavailableError: its last session died.
        """

    def index(self) -> tuple[ModelState, ...]:
        """Every model, in the order in which they were given."""

    def default_model(self) -> str:
        """The only model's name, or the first classifier's: what ``/classify`` uses when none is named."""

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request; cancelling the task takes it back.

        Raises:
            UnknownModelError: there is no such model.
            InputError: its tensors don't fit, or an output is unknown.
            TooLargeError: it is larger than a request may be.
            Overloaded: the queue is full.
            DeadlineExceeded: its time was up.
            UnavailableError: the model can't answer now.
            RunError: the engine failed.
        """

    async def classify(
        self, picture: bytes, *, model: str = "", top: int = 5, timeout: float | None = None
    ) -> Classification:
        """Classify an encoded picture (JPEG, PNG, ...); ``model`` is the default one where it isn't named.

        Raises:
            InputError: the model is no classifier, or ``top`` makes no sense.
            DataError: the picture is damaged, too large, or none.
            ToolkitError: those of :meth:`infer`.
        """

    async def reload(self, name: str) -> None:
        """Open the model's file again and put the new one in place once it answers; requests go on meanwhile.

        Raises:
            UnknownModelError: there is none of that name.
            ToolkitError: it couldn't be opened; the old one goes on.
        """

    def statistics(self, name: str = "") -> Mapping[str, Mapping[str, Any]]:
        """By model, or of one: ``BatcherStats.to_json()`` of what it has done since the server began.

        Beside that, as far as it is known: "last_inference" (ms since the epoch), "generation" (which opening of the
        file answers, from 1), "reloads" by outcome, "errors" by kind, "decoding" (as the batcher's times) and
        "max_batch".
        """

    async def close(self) -> None:
        """Refuse what is new, answer what was accepted, close every session."""


class HostedPlane(Plane, Protocol):
    """A data plane as the server that hosts it needs it.

    Attributes:
        gate: where requests wait, and are refused, when it ends.
    """

    gate: Gate

    async def open(self) -> None:
        """Whatever must be done in the event loop before requests come.

        Raises:
            ToolkitError: it can't serve.
        """

    async def keep(self, *, watched: bool) -> None:
        """Do what is to be done while it serves, until this is cancelled; ``watched``: also open replaced files."""

    async def close(self, timeout: float | None = None) -> None:
        """See :class:`Plane`; what waits is run for ``timeout`` seconds yet, None for as long as it takes."""
