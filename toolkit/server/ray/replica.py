"""What runs in each replica: a data plane over the models, on the device that Ray gave it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from engines.errors import RunError
from toolkit.server.plane.interface import Classification
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.protocol.messages import InferRequest, InferResponse
from toolkit.server.ray.remote import Description
from toolkit.server.settings import ModelSettings, Source


class Replica:
    """One replica's models; its methods are called by :class:`toolkit.server.ray.remote.RayPlane`.

    Args:
        sources: the models. Their files must lie at the same place on every node.
        models: how they are opened and batched. With a GPU "auto" is the one that Ray gave this replica.
        watched: whether files that are replaced are opened again.
    """

    def __init__(self, sources: Sequence[Source], models: ModelSettings, *, watched: bool = True) -> None:
        self._plane = DataPlane(open_models(sources, models), models)
        self._watched, self._id = watched, uuid4().hex
        self._keeping: asyncio.Task[None] | None = None

    async def infer(self, request: InferRequest) -> InferResponse:
        """See :meth:`toolkit.server.plane.interface.Plane.infer`."""
        return await self._plane.infer(request)

    async def classify(self, picture: bytes, *, model: str, top: int, timeout: float | None) -> Classification:
        """See :meth:`toolkit.server.plane.interface.Plane.classify`."""
        return await self._plane.classify(picture, model=model, top=top, timeout=timeout)

    async def reload(self, name: str) -> None:
        """See :meth:`toolkit.server.plane.interface.Plane.reload`."""
        await self._plane.reload(name)

    async def describe(self) -> Description:
        """What is served here."""
        if self._keeping is None:
            # The first call comes in the event loop, which the constructor has not.
            self._keeping = asyncio.create_task(self._plane.keep(watched=self._watched))
        plane = self._plane
        states = plane.index()
        models = {state.name: plane.metadata(state.name) for state in states if plane.model_ready(state.name)}
        return Description(models, states, plane.default_model())

    async def statistics(self) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        """Which replica this is, and what its models have done."""
        return self._id, self._plane.statistics()

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica that isn't well.

        Raises:
            RunError: a model's last session died.
        """
        if not self._plane.ready():
            raise RunError("a model has no session left", "see the logs of the replica")

    async def __del__(self) -> None:
        """Called by Ray when the replica ends, after what it had accepted is answered."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._plane.close()
