"""Planes over real graphs and over fakes, and what they must answer."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engines.errors import RunError
from engines.sessions import open_session
from engines.sessions.base import Session
from engines.sessions.fake import FakeSession
from engines.tensors import Array, Feeds
from tests.tiny import SIZE, tiny_graph
from toolkit.server.plane.opening import Origin
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.plane.reload import Model
from toolkit.server.protocol.messages import InferRequest, InferResponse, Tensor
from toolkit.server.settings import ModelSettings, Source

PATIENCE = 10.0
"""Seconds after which a test that waits gives up."""


def write(path: Path, seed: int = 0, **options: Any) -> Path:
    """A tiny graph, put in place in one piece as a build does."""
    part = path.with_name(f".{path.name}.part")
    onnx.save(tiny_graph(seed=seed, **options), part)
    return part.replace(path)


def samples(count: int, seed: int = 0) -> Array:
    """float32 [count, 3, 16, 16]."""
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE), np.float32)


def answers(path: Path, batch: Array) -> Array:
    """What the graph answers, without a plane around it."""
    with open_session(path) as session:
        return session.run({"input": batch})["logits"]


def infer(model: str, batch: Array, *, name: str = "input", datatype: str = "FP32", **options: Any) -> InferRequest:
    """A request with one tensor."""
    return InferRequest(model, (Tensor(name, datatype, batch),), **options)


def logits(response: InferResponse) -> Array:
    """The only output."""
    (tensor,) = response.outputs
    assert (tensor.name, tensor.datatype) == ("logits", "FP32")
    return tensor.data


def plane_of(*paths: Path, **options: Any) -> DataPlane:
    """A plane over files, each named after itself."""
    settings = ModelSettings(**options)
    return DataPlane(open_models([Source(path.stem, path) for path in paths], settings), settings)


def fake_plane(open_session: Callable[[str], Session], name: str = "fake", **options: Any) -> DataPlane:
    """A plane over one model of fakes."""
    settings = ModelSettings(**options)
    return DataPlane([Model(Origin(name, open_session), settings)], settings)


def within(work: Callable[[DataPlane], Coroutine[Any, Any, Any]], plane: DataPlane) -> Any:
    """Do something with a plane in an event loop, and close it."""

    async def all_of_it() -> Any:
        try:
            return await asyncio.wait_for(work(plane), PATIENCE)
        finally:
            await asyncio.wait_for(plane.close(), PATIENCE)

    return asyncio.run(all_of_it())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task or thread brings about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Mortal(FakeSession):
    """A session that dies for good when it is killed."""

    killed = False

    def kill(self) -> None:
        """Fail every run from now on."""
        self.killed = True

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        if self.killed:
            raise RunError("the device is lost", "none")
        return super()._run(feeds, batch)
