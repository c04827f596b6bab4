"""The data plane: models by name, and everything that the fronts ask of them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, time
from typing import Any

from engines.errors import DeadlineExceeded, InputError, RunError, ToolkitError
from toolkit.runtime.head import check_top
from toolkit.server.plane.gate import Gate, UnderWay, ending
from toolkit.server.plane.interface import Classification, ModelState
from toolkit.server.plane.pictures import Decoders
from toolkit.server.plane.reload import Model, open_models
from toolkit.server.plane.served import VERSION, ServedModel
from toolkit.server.plane.watch import watch
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    UnavailableError,
    UnknownModelError,
)
from toolkit.server.settings import ModelSettings

__all__ = ["DataPlane", "open_models"]


class DataPlane:
    """See :class:`toolkit.server.plane.interface.Plane`.

    ::

        plane = DataPlane(open_models(sources_of(["model.fp16.engine"])))

    Args:
        models: what is served, each under a name of its own; they are the plane's from now on.
        settings: how pictures are decoded.

    Attributes:
        models: by name, in the order given.
        gate: where requests wait, and are refused, when it ends.
    """

    def __init__(self, models: Sequence[Model], settings: ModelSettings | None = None) -> None:
        settings = settings or ModelSettings()
        self.models = {model.name: model for model in models}
        if len(self.models) != len(models) or not models:
            raise InputError("models need names of their own, and there must be one", "name them")
        self._decoders = Decoders(settings.decoders, settings.pictures)
        self.gate = Gate()
        self._pictures = UnderWay()

    async def open(self) -> None:
        """Nothing: its models are open already."""

    async def keep(self, *, watched: bool) -> None:
        """Open models again whose files are replaced, until this is cancelled.

        Args:
            watched: whether that is wanted.
        """
        if watched:
            await watch(self.models.values())

    def live(self) -> bool:
        """Whether the process works at all."""
        return True

    def ready(self) -> bool:
        """Whether every model can answer and nothing drains."""
        return not self.gate.draining and all(model.current.alive() for model in self.models.values())

    def draining(self) -> bool:
        """Whether it ends."""
        return self.gate.draining

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model can answer; see the interface."""
        return self._find(name, version).current.alive() and not self.gate.closed

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """What a model is; see the interface."""
        model = self._find(name, version)
        if not model.current.alive():
            raise _unavailable(model)
        return model.current.metadata

    def index(self) -> tuple[ModelState, ...]:
        """Every model."""
        return tuple(model.state() for model in self.models.values())

    def default_model(self) -> str:
        """The first classifier's name; the first model's where there is none."""
        classifiers = (name for name, model in self.models.items() if model.current.head is not None)
        return next(classifiers, next(iter(self.models)))

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request; see the interface."""
        model = self._find(request.model, request.version)
        until = None if request.timeout is None else monotonic() + request.timeout
        with _counting(model):
            if not self.gate.passable():
                await self.gate.enter()
            timeout, waited = _left(until), False
            while True:
                served = model.current
                try:
                    response = await served.infer(request, timeout)
                except RunError as error:
                    waited = await self._look(model, served, error, until, waited)
                else:
                    model.last = time()
                    return response
                timeout = _left(until)

    async def classify(
        self, picture: bytes, *, model: str = "", top: int = 5, timeout: float | None = None
    ) -> Classification:
        """Classify an encoded picture; see the interface."""
        asked = self._find(model or self.default_model(), "")
        until = None if timeout is None else monotonic() + timeout
        with self._pictures, _counting(asked):
            if not self.gate.passable():
                await self.gate.enter()
            check_top(top)
            waited = False
            while True:
                served = asked.current
                try:
                    found = await self._classify(asked, served, picture, top, until)
                except RunError as error:
                    waited = await self._look(asked, served, error, until, waited)
                else:
                    asked.last = time()
                    return found

    async def reload(self, name: str) -> None:
        """Open a model's file again; see the interface."""
        await self._find(name, "").reload()

    def statistics(self, name: str = "") -> Mapping[str, Mapping[str, Any]]:
        """What models have done since the server began: :meth:`toolkit.server.plane.reload.Model.statistics`."""
        models = [self._find(name, "")] if name else self.models.values()
        return {model.name: model.statistics() for model in models}

    async def close(self, timeout: float | None = None) -> None:
        """Refuse what is new, answer what was accepted, close every session.

        Args:
            timeout: seconds for which requests that wait are still run; None for as long as it takes.
        """
        self.gate.close()
        until = None if timeout is None else monotonic() + timeout
        # Those that are being decoded come to the batchers yet.
        await self._pictures.over(timeout)
        self._decoders.close()
        left = None if until is None else max(0.0, until - monotonic())
        await asyncio.gather(*(model.close(left) for model in self.models.values()))

    async def _classify(
        self, model: Model, served: ServedModel, picture: bytes, top: int, until: float | None
    ) -> Classification:
        arrived, head = monotonic(), served.head
        if head is None:
            raise InputError(
                f"the model '{model.name}' is no classifier of pictures: {served.no_head}",
                "ask for inference with tensors, or name another model",
            )
        try:
            async with asyncio.timeout(_left(until)):
                sample = await self._decoders.sample(head, picture)
        except TimeoutError:
            raise DeadlineExceeded(
                "the request's time was up before its picture was decoded", "give it more time"
            ) from None
        decoded = monotonic()
        model.decoding.add(decoded - arrived)
        answer = served.batcher.submit(sample, timeout=_left(until))
        outputs = await answer
        prediction = head.predictions(outputs, top)[0]
        ride = answer.ride
        assert ride is not None  # noqa: S101 - it has a result
        seconds = {
            "decode": decoded - arrived,
            "wait": ride.began - answer.arrived,
            "stage": ride.staged - ride.began,
            "run": ride.ended - ride.staged,
            "total": monotonic() - arrived,
        }
        return Classification(model.name, prediction, seconds, ride.size)

    def _find(self, name: str, version: str) -> Model:
        model = self.models.get(name)
        if model is None:
            raise UnknownModelError(
                f"there is no model {short(name)} here", f"models are {', '.join(map(short, self.models))}"
            )
        if version not in {"", VERSION}:
            raise UnknownModelError(
                f"the model '{name}' has no version {short(version)}", f"ask for version {VERSION}, or for none"
            )
        return model

    async def _look(
        self, model: Model, served: ServedModel, error: RunError, until: float | None, waited: bool
    ) -> bool:
        """Return where a request that failed is to be sent again, for another opening has taken its place.

        When no session is left, it waits for the first attempt to open the model again; but once only: it may be
        this very request that they die of.

        Args:
            until: its deadline, by ``time.monotonic``.
            waited: whether it has waited for another opening before.

        Returns:
            Whether it has now.

        Raises:
            UnavailableError: nobody is there to answer.
            DeadlineExceeded: its time was up before somebody was.
            RunError: the engine failed at it.
        """
        if model.current is not served:
            return waited
        if not self.gate.closed:
            if served.alive():
                raise error
            try:
                async with asyncio.timeout(_left(until)):
                    again = await model.mend()
            except TimeoutError:
                raise DeadlineExceeded(
                    "the request's time was up before the model was opened again", "give it more time"
                ) from error
            if again and not waited:
                return True
        if self.gate.closed:
            raise ending() from error
        raise _unavailable(model, error) from error


def _left(until: float | None) -> float | None:
    return None if until is None else until - monotonic()


def _unavailable(model: Model, error: ToolkitError | None = None) -> UnavailableError:
    cause = f": {error.cause}" if error else ""
    return UnavailableError(
        f"the model '{model.name}' has no session left{cause}", "it is opened again as soon as it can be; ask later"
    )


@contextmanager
def _counting(model: Model) -> Iterator[None]:
    """Count the error that a request of the model ends with, if it does."""
    try:
        yield
    except BaseException as error:
        kind = type(error).__name__ if isinstance(error, ToolkitError | asyncio.CancelledError) else "unexpected"
        model.errors[kind] += 1
        raise
