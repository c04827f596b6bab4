"""Both fronts in one event loop: start, serve, and end without losing a request."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, MissingLibraryError, UnsupportedError
from engines.optional import require
from toolkit.server.listening import Door, address, bound, check_free, refusal
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.interface import HostedPlane
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.ray.settings import RaySettings
from toolkit.server.settings import ModelSettings, ServerSettings, Source

if TYPE_CHECKING:
    import grpc

log = logging.getLogger("toolkit.server")

QUIET, HOLD_AT_MOST = 0.03, 0.3
"""Seconds in which nobody has sent another request when gRPC is stopped, and after which it is stopped anyway: a
client that isn't far away has sent its next by then, and what waits for an answer may wait so much longer once."""

LAST_WORDS = 2.0
"""Seconds for answers to reach their clients, of requests that were given up because the time to drain was over."""


@dataclass(frozen=True)
class Listening:
    """Where a server listens.

    Attributes:
        http: "http://127.0.0.1:8000"; None where there is no such front.
        grpc: "127.0.0.1:8001"; None likewise.
        plane: what is served there.
    """

    http: str | None
    grpc: str | None
    plane: HostedPlane


def serve(
    sources: Sequence[Source],
    models: ModelSettings,
    settings: ServerSettings,
    ready: Callable[[Listening], None],
    ray: RaySettings | None = None,
) -> None:
    """Serve models until SIGTERM or SIGINT, and then until everything that was accepted is answered.

    Args:
        sources: the models.
        models: how they are opened and batched.
        settings: where to listen, and how to end.
        ready: called once requests are taken.
        ray: puts the models into replicas of Ray Serve; None has them in this process.

    Raises:
        InputError: a port is in use, or a model can't be read; nothing listened then.
        UnsupportedError: a library is missing, or this machine can't run a model.
    """
    if settings.http_port < 0 and settings.grpc_port < 0:
        raise InputError("both fronts are off", "leave one on: --http-port 8000 or --grpc-port 8001")
    if settings.http_port == settings.grpc_port != 0:
        raise InputError(
            f"both fronts are to listen at port {settings.http_port}", "give them two: --http-port, --grpc-port"
        )
    place = None
    if settings.http_port >= 0:
        require("uvicorn", "Serving over HTTP", "serve")
        place = bound(settings.host, settings.http_port, "--http-port")
    try:
        if settings.grpc_port >= 0:
            require("grpc", "Serving over gRPC", "serve")
            check_free(settings.host, settings.grpc_port, "--grpc-port")
        with (
            _plane(sources, models, ray, watched=settings.watch) as plane,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            runner.run(Server(plane, settings, place).run(ready))
    finally:
        if place is not None:
            place.close()


class Server:
    """A plane behind its fronts.

    Args:
        plane: closed when the server has ended.
        settings: where it listens, and how it ends.
        place: the HTTP front's socket, bound; None for no such front.
    """

    def __init__(self, plane: HostedPlane, settings: ServerSettings, place: socket.socket | None) -> None:
        self._plane, self._settings, self._place = plane, settings, place
        self._metrics = FrontMetrics(plane)
        self._http: Door | None = None
        self._grpc: grpc.aio.Server | None = None
        self._end = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, ready: Callable[[Listening], None]) -> None:
        """Serve until :meth:`stop`, and drain.

        Args:
            ready: called once requests are taken.

        Raises:
            InputError: a port is in use.
        """
        with self._signals():
            try:
                await self._plane.open()
                listening = await self._open()
                self._spawn(self._plane.keep(watched=self._settings.watch))
                ready(listening)
                await self._end.wait()
                self._plane.gate.drain()
                await asyncio.sleep(self._settings.drain_delay)
            finally:
                await self._close()

    def stop(self) -> None:
        """End, after everything that was accepted is answered; called in the event loop."""
        self._end.set()

    def reload(self) -> None:
        """Open every model's file again; called in the event loop."""
        for model in self._plane.index():
            self._spawn(self._plane.reload(model.name))

    async def _open(self) -> Listening:
        settings, host = self._settings, self._settings.host
        http = rpc = None
        if self._place is not None:
            from toolkit.server.http.app import make_app

            app = make_app(self._plane, settings.fronts, self._metrics)
            self._http = Door(app, self._place, access_log=settings.fronts.access_log)
            http = f"http://{address(host, self._http.port)}"
        if settings.grpc_port >= 0:
            from toolkit.server.grpc.server import make_server

            self._grpc = make_server(self._plane, settings.fronts, self._metrics)
            try:
                port = self._grpc.add_insecure_port(address(host, settings.grpc_port))
            except RuntimeError as error:
                raise refusal(host, settings.grpc_port, "--grpc-port", str(error)) from error
            await self._grpc.start()
            rpc = address(host, port)
        if self._http is not None:
            try:
                await self._http.open()
            except OSError as error:
                raise refusal(host, settings.http_port, "--http-port", error) from error
        return Listening(http, rpc, self._plane)

    async def _close(self) -> None:
        """Take no more connections, answer what was accepted, close the sessions."""
        self._plane.gate.drain()
        for task in self._background:
            task.cancel()
        until = monotonic() + self._settings.drain_timeout
        ends: list[asyncio.Task[Any]] = []
        if self._http is not None:
            ends.append(asyncio.create_task(self._http.close()))
        if self._grpc is not None:
            ends.append(await self._stop_grpc(self._grpc))
        late: set[asyncio.Task[Any]] = set()
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._settings.drain_timeout)
        if late:
            log.warning("requests were still under way after %s s, and are given up", self._settings.drain_timeout)
        await self._plane.close(max(0.0, until - monotonic()))
        if late:
            await asyncio.wait(late, timeout=LAST_WORDS)
            if self._http is not None:
                self._http.abandon()
        for result in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a front did not end as it should: %s", result)

    async def _stop_grpc(self, server: "grpc.aio.Server") -> "asyncio.Task[None]":
        """Have gRPC take no more calls; the task ends when those are answered that it took.

        When it stops, gRPC cancels calls that it has read and not handed on yet, and those that come until the
        client has heard of it. So requests are kept waiting first: whoever waits for an answer sends no other one.
        """
        self._plane.gate.hold()
        until, held = monotonic() + HOLD_AT_MOST, -1
        while self._plane.gate.held != held and monotonic() < until:
            held = self._plane.gate.held
            await asyncio.sleep(QUIET)
        stopped = asyncio.create_task(server.stop(self._settings.drain_timeout))
        # Its first step tells the clients; their answers go the same way behind that.
        await asyncio.sleep(QUIET)
        self._plane.gate.release()
        return stopped

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server, a second one at once; SIGHUP opens every file again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        ends = (signal.SIGTERM, signal.SIGINT)
        before = {one: signal.getsignal(one) for one in (*ends, signal.SIGHUP)}

        def end(number: signal.Signals) -> None:
            log.warning("%s: what was accepted is answered; another signal ends at once", number.name)
            for one in ends:
                loop.remove_signal_handler(one)
                # The system's own way, which needs no event loop that still turns.
                signal.signal(one, signal.SIG_DFL)
            self.stop()

        for one in ends:
            loop.add_signal_handler(one, end, one)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        try:
            yield
        finally:
            for one, handler in before.items():
                loop.remove_signal_handler(one)
                signal.signal(one, handler)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s", error)


@contextlib.contextmanager
def _plane(
    sources: Sequence[Source], models: ModelSettings, ray: RaySettings | None, *, watched: bool
) -> Iterator[HostedPlane]:
    """The data plane: with the models in it, or in replicas."""
    if ray is None:
        yield DataPlane(open_models(sources, models), models)
        return
    from toolkit.server.ray.cluster import deployed
    from toolkit.server.ray.remote import RayPlane

    with deployed(sources, models, ray, watched=watched) as handle:
        yield RayPlane(handle)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where that is installed; None for Python's own."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = require("uvloop", "Serving", "serve").new_event_loop
    except (MissingLibraryError, UnsupportedError):
        return None
    return factory
