"""The data plane that a front sees while the models live in replicas elsewhere."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from engines.errors import DeadlineExceeded, RunError
from toolkit.server.plane.gate import Gate, UnderWay
from toolkit.server.plane.interface import Classification, ModelState
from toolkit.server.protocol.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    UnavailableError,
    UnknownModelError,
)
from toolkit.server.ray.failures import died, ours
from toolkit.server.ray.tally import Tally

_LOG = logging.getLogger(__name__)

RETRIES = 2
"""How often a request is sent again after the replica that had it died. A request that kills what it reaches stops
there, and takes three replicas with it at most."""

REFRESH = 2.0
"""Seconds between two looks at what the replicas serve."""

PATIENCE = 10.0
"""Seconds that such a look may take before the front says that it isn't ready."""


@dataclass(frozen=True)
class Description:
    """What a replica tells of itself.

    Attributes:
        models: by name.
        index: their states.
        default: the name of the model that classifies where none is named.
    """

    models: Mapping[str, ModelMetadata]
    index: tuple[ModelState, ...]
    default: str


class RayPlane:
    """Implements :class:`toolkit.server.plane.interface.Plane` over the replicas of a deployment.

    A request whose replica dies is sent to another one; it is inference, so running it twice changes nothing.

    Args:
        handle: of the deployment of :class:`toolkit.server.ray.replica.Replica`.

    Attributes:
        gate: where requests wait, and are refused, when it ends.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._description: Description | None = None
        self._seen = False
        self._tally = Tally()
        self._under_way = UnderWay()
        self.gate = Gate()

    async def open(self) -> None:
        """Ask what is served.

        Raises:
            UnavailableError: no replica answers.
        """
        await self._look()

    async def keep(self, *, watched: bool) -> None:
        """Go on asking, until this is cancelled; files are watched by the replicas."""
        while True:
            await asyncio.sleep(REFRESH)
            await self._look()

    def live(self) -> bool:
        """See :class:`Plane`."""
        return True

    def ready(self) -> bool:
        """Whether a replica answered lately and every model was ready in it."""
        found = self._description
        ready = found is not None and all(model.state == "READY" for model in found.index)
        return ready and self._seen and not self.gate.draining

    def draining(self) -> bool:
        """See :class:`Plane`."""
        return self.gate.draining

    def model_ready(self, name: str, version: str = "") -> bool:
        """See :class:`Plane`."""
        self.metadata(name, version)
        return self.ready()

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """See :class:`Plane`."""
        models = self._described().models
        found = models.get(name)
        if found is None or (version and version not in found.versions):
            what = f"version '{version}' of '{name}'" if found else f"'{name}'"
            raise UnknownModelError(f"{what} isn't served", f"ask for {', '.join(models)}")
        return found

    def index(self) -> tuple[ModelState, ...]:
        """See :class:`Plane`."""
        found = self._description.index if self._description else ()
        if self._seen:
            return found
        return tuple(replace(state, state="UNAVAILABLE", reason="no replica answers") for state in found)

    def default_model(self) -> str:
        """See :class:`Plane`."""
        return self._described().default

    async def infer(self, request: InferRequest) -> InferResponse:
        """See :class:`Plane`."""
        self.metadata(request.model, request.version)

        def send(timeout: float | None) -> Any:
            return self._handle.infer.remote(replace(request, timeout=timeout))

        response: InferResponse = await self._ask(send, request.timeout)
        return response

    async def classify(
        self, picture: bytes, *, model: str = "", top: int = 5, timeout: float | None = None
    ) -> Classification:
        """See :class:`Plane`."""

        def send(left: float | None) -> Any:
            return self._handle.classify.remote(picture, model=model, top=top, timeout=left)

        answer: Classification = await self._ask(send, timeout)
        return answer

    async def reload(self, name: str) -> None:
        """Have every replica open the model again; see :class:`Plane`."""
        self.metadata(name)
        try:
            await self._handle.broadcast("reload", name).results_async()
        except Exception as error:
            raise ours(error) from error
        await self._look()

    def statistics(self, name: str = "") -> Mapping[str, Mapping[str, Any]]:
        """Sums over the replicas, those that are gone included, as they were up to ``REFRESH`` seconds ago."""
        found = self._tally.total()
        if name:
            self.metadata(name)
            return {name: found[name]} if name in found else {}
        return found

    async def close(self, timeout: float | None = None) -> None:
        """Take no more requests, and wait for the answers to those under way; the replicas end with the cluster."""
        self.gate.close()
        await self._under_way.over(timeout)

    def _described(self) -> Description:
        if self._description is None:
            raise UnavailableError("no replica has answered yet", "wait for one to start, and see the logs of Ray")
        return self._description

    async def _ask(self, send: Callable[[float | None], Any], timeout: float | None) -> Any:
        """Send a request, and again if its replica dies, within its time."""
        until = None if timeout is None else monotonic() + timeout
        if not self.gate.passable():
            await self.gate.enter()
        with self._under_way:
            return await self._send(send, until)

    async def _send(self, send: Callable[[float | None], Any], until: float | None) -> Any:
        for attempt in range(RETRIES + 1):
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                raise _late()
            try:
                return await _within(send(left), left)
            except Exception as error:
                if not died(error):
                    raise ours(error) from error
                _LOG.warning("a replica died with a request in it (attempt %d of %d)", attempt + 1, RETRIES + 1)
        raise RunError(
            f"{RETRIES + 1} replicas died with this request in them", "see the logs of Ray for why they ended"
        )

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                described = await self._handle.describe.remote()
                everywhere = await self._handle.broadcast("statistics").results_async()
        except Exception as error:
            self._seen = False
            if self._description is None:
                raise UnavailableError(f"no replica answers: {error}", "see the logs of Ray") from error
            return
        self._description, self._seen = described, True
        self._tally.take(dict(one for one in everywhere if not isinstance(one, BaseException)))


async def _within(response: Any, left: float | None) -> Any:
    """The response, which is cancelled when nobody waits for it any more."""
    try:
        async with asyncio.timeout(left):
            return await response
    except TimeoutError:
        raise _late() from None
    except asyncio.CancelledError:
        response.cancel()
        raise


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time was up", "give it more time, or more replicas")
