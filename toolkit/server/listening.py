"""Sockets, and the HTTP server on one of them."""

import asyncio
import contextlib
import errno
import selectors
import socket
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from engines.errors import InputError
from engines.optional import require
from toolkit.server.http.wire import protocol
from toolkit.server.newcomers import drop_newcomers

if TYPE_CHECKING:
    import uvicorn

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than balancers and clients keep theirs (60 s is common), so that
it is they who close it, and no request meets a connection that closes."""

BACKLOG = 2048
"""Connections that wait to be accepted, at most: those of a few thousand clients that come at once."""

LINGER = 0.25
"""Seconds between closing the door and the idle connections: what was sent on one by then is still read. Those at
work were told to close with their last answers."""

PATIENCE = 1.0
"""Seconds for which connections that the system has taken already are taken over, before the door is closed."""


def bound(host: str, port: int, option: str) -> socket.socket:
    """A socket that has the address but doesn't listen yet.

    Args:
        host: a name or an address of this machine.
        port: 0 for any.
        option: of the command line, for the remedy.

    Raises:
        InputError: the port is in use or not allowed, or the host isn't this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"'{host}' is no address: {error}", "give one of this machine with --host") from error
    found = socket.socket(family, kind, protocol)
    try:
        # A server that has just ended leaves connections behind that would keep the port for a minute.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
    except OSError as error:
        found.close()
        raise refusal(host, port, option, error) from error
    return found


def check_free(host: str, port: int, option: str) -> None:
    """Raise InputError if nobody can listen there; port 0 is always free."""
    if port:
        with bound(host, port, option) as found:
            try:
                found.listen(1)
            except OSError as error:
                raise refusal(host, port, option, error) from error


def refusal(host: str, port: int, option: str, error: OSError | str) -> InputError:
    """The error for an address that can't be listened at."""
    number = error.errno if isinstance(error, OSError) else errno.EADDRINUSE
    if number == errno.EADDRINUSE:
        return InputError(
            f"port {port} of {host} is in use", f"end what listens there, or choose another: {option} 0 takes any"
        )
    if number == errno.EACCES:
        return InputError(f"port {port} of {host} is not allowed to this user", f"choose one from 1024 up: {option}")
    if number == errno.EADDRNOTAVAIL:
        return InputError(f"'{host}' is no address of this machine", "give one that is with --host")
    return InputError(f"can't listen at port {port} of {host}: {error}", f"choose another address: --host, {option}")


def address(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Door:
    """An ASGI application behind a socket.

    Args:
        app: the application.
        place: the socket, bound; closed with this.
        access_log: whether each request is logged, by "uvicorn.access".
    """

    def __init__(self, app: Any, place: socket.socket, *, access_log: bool = False) -> None:
        self._socket = place
        self.port: int = place.getsockname()[1]
        config = require("uvicorn", "Serving over HTTP", "serve").Config(
            app, http=protocol(), ws="none", lifespan="off", log_config=None, access_log=access_log,
            backlog=BACKLOG, server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE,
        )  # fmt: skip
        self._opened = asyncio.Event()
        self._server = _server(config, self._opened)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take requests from now on.

        Raises:
            OSError: somebody else listens there.
        """
        # Tried here first: uvloop's event loop can't be closed any more after it has failed there.
        self._socket.listen(BACKLOG)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        opened = asyncio.create_task(self._opened.wait())
        await asyncio.wait({self._task, opened}, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if self._task.done():
            await self._task

    async def close(self) -> None:
        """Take no more connections, and wait until every request is answered."""
        if self._task is None or self._task.done():
            self._socket.close()
            return
        # The system has taken connections that the loop hasn't: closing the socket would reset them. Those that are
        # being made are whole after a moment, and then there are no more.
        if drop_newcomers(self._socket):
            await asyncio.sleep(LINGER)
        until = monotonic() + PATIENCE
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            while waiting.select(0) and monotonic() < until:
                await asyncio.sleep(0)
        if asyncio.get_running_loop().remove_reader(self._socket):
            # Python's own loop loses connections that it has accepted just now if their server is closed meanwhile;
            # in uvloop they are whole at once.
            self._socket.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(LINGER)
        for server in self._server.servers:
            server.close()
        await asyncio.sleep(LINGER)
        self._server.should_exit = True
        await asyncio.shield(self._task)

    def abandon(self) -> None:
        """End :meth:`close` without waiting any longer."""
        self._server.force_exit = True


def _server(config: "uvicorn.Config", opened: asyncio.Event) -> "uvicorn.Server":
    """A server that leaves signals to others, and says when it has started."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            opened.set()

    return Server(config)
