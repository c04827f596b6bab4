"""A whole server for tests: both fronts on sockets of their own, over real models, in a thread beside the test."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import onnx
from onnx import TensorProto, helper

from engines.sessions.fake import FakeSession
from engines.tensors import Array, Feeds
from tests.tiny import tiny_graph
from toolkit.runtime.batcher import Batcher
from toolkit.server.grpc.server import make_server
from toolkit.server.http.app import make_app
from toolkit.server.listening import Door, bound
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.opening import Origin
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.plane.reload import Model
from toolkit.server.protocol.limits import Limits
from toolkit.server.settings import MAX_HELD, FrontSettings, ModelSettings, Source

T = TypeVar("T")

LIMITS = Limits(max_body=1 << 20)
"""A body of 1 MiB at most, so that tests can go beyond it."""

TYPES = {"a": (TensorProto.FLOAT, 4), "b": (TensorProto.FLOAT16, 3), "c": (TensorProto.UINT8, 2)}
"""The inputs of the graph that gives back what it gets: ONNX type, and length of a sample."""


def echo_graph() -> onnx.ModelProto:
    """Three inputs of three types, each given back: "a" as "a_out", and so on; no classifier."""

    def tensor(name: str, key: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TYPES[key][0], ["batch", TYPES[key][1]])

    graph = helper.make_graph(
        [helper.make_node("Identity", [key], [f"{key}_out"]) for key in TYPES],
        "echo",
        [tensor(key, key) for key in TYPES],
        [tensor(f"{key}_out", key) for key in TYPES],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sources(folder: Path) -> list[Source]:
    """The models "tiny", a classifier, and "echo", each in a file."""
    paths = {"tiny": folder / "tiny.onnx", "echo": folder / "echo.onnx"}
    onnx.save(tiny_graph(), paths["tiny"])
    onnx.save(echo_graph(), paths["echo"])
    return [Source(name, path) for name, path in paths.items()]


@dataclass
class Fronts:
    """A server that runs.

    Attributes:
        plane: what answers; call it in the server's loop, by :meth:`within`.
        http, grpc: addresses, as tritonclient takes them.
        loop: the server's.
    """

    plane: Any
    http: str
    grpc: str
    loop: asyncio.AbstractEventLoop

    def within(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine in the server's loop, and wait for it."""

        async def call() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)


@contextmanager
def serving(
    plane: Any, *, token: str | None = None, limits: Limits = LIMITS, max_held: int = MAX_HELD
) -> Iterator[Fronts]:
    """Serve ``plane``, which is closed in the end."""
    started: list[Fronts | BaseException] = []
    ready = threading.Event()
    end: list[Callable[[], None]] = []

    async def main() -> None:
        metrics = FrontMetrics(plane)
        settings = FrontSettings(token=token, limits=limits, max_held=max_held)
        web = Door(make_app(plane, settings, metrics), bound("127.0.0.1", 0, "--http-port"))
        rpc = make_server(plane, settings, metrics)
        port = rpc.add_insecure_port("127.0.0.1:0")
        await rpc.start()
        await web.open()
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        end.append(lambda: loop.call_soon_threadsafe(over.set))
        started.append(Fronts(plane, f"127.0.0.1:{web.port}", f"127.0.0.1:{port}", loop))
        ready.set()
        await over.wait()
        web.abandon()
        await web.close()
        await rpc.stop(0)
        await plane.close()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            started.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="fronts")
    thread.start()
    assert ready.wait(20)
    fronts = started[0]
    if isinstance(fronts, BaseException):
        raise fronts
    try:
        yield fronts
    finally:
        end[0]()
        thread.join(20)
        assert not thread.is_alive()


def opened(folder: Path) -> DataPlane:
    """The plane of the real models of :func:`sources`."""
    settings = ModelSettings(devices=("cpu",), max_batch=8, threads=1, decoders=1)
    return DataPlane(open_models(sources(folder), settings), settings)


def faked(*, delay: float = 0.0, queue: int = 64) -> DataPlane:
    """The plane of one model, "fake": a session that takes ``delay`` seconds for each sample, one after the other."""
    settings = ModelSettings(devices=("cpu",), max_batch=1, queue=queue)
    origin = Origin("fake", lambda _: FakeSession((4,), 3, delay=delay))
    return DataPlane([Model(origin, settings)], settings)


@contextmanager
def held(*, queue: int = 64, max_held: int = MAX_HELD) -> Iterator[tuple[Fronts, Batcher, threading.Event]]:
    """Serve the model "fake", which runs one sample at a time, and none before the event is set."""
    gate = threading.Event()
    gate.set()

    class Held(FakeSession):
        def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
            assert gate.wait(20)
            return super()._run(feeds, batch)

    settings = ModelSettings(devices=("cpu",), max_batch=1, queue=queue)
    model = Model(Origin("fake", lambda _: Held((4,), 3)), settings)
    with serving(DataPlane([model], settings), max_held=max_held) as fronts:
        gate.clear()
        try:
            yield fronts, model.current.batcher, gate
        finally:
            gate.set()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def running(batcher: Batcher) -> bool:
    """Whether the first request has left the queue."""
    stats = batcher.stats()
    return stats.requests["accepted"] > 0 and not stats.depth


def channel(address: str, **options: Any) -> grpc.Channel:
    """A bare channel, for what tritonclient doesn't call."""
    return grpc.insecure_channel(address, options=list(options.items()))
