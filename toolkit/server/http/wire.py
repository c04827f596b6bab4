"""What no request comes of: heads that never end, clients that fall silent, connections without number."""

import asyncio
import contextlib
import json
import resource
from typing import Any

from engines.optional import require

MAX_HEAD = 64 << 10
"""Bytes of a request's head, or of what follows a body in pieces: what other servers take (h11; most less)."""

SILENCE = 60.0
"""Seconds in which a request's head must have come, and which may pass between two pieces of its body or its answer:
what other servers grant. Without a bound, clients that only open connections use up the files of the process."""

SPARE = 256
"""Files of the process that aren't HTTP connections: those of gRPC's clients, models, libraries, devices."""

ENOUGH = 65536
"""Files that the process asks to be allowed: each connection takes one."""

_FULL = json.dumps({"error": "the server has no room for another connection (try again later)"}).encode()
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)
"""What is answered to a connection that there is no room for, before it has asked."""


def room() -> int:
    """How many connections there may be: as many as the process is allowed files, but for those that it needs.

    It is allowed more, as far as it may ask for that: many systems begin at 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the system may have a limit of its own beside
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        soft = ENOUGH
    return soft - min(SPARE, soft // 2)


def protocol(most: int | None = None, silence: float = SILENCE) -> "type | str":
    """What uvicorn reads HTTP with: by way of httptools, and with bounds on what it waits for.

    A request that asks for another protocol ("Upgrade: h2c", as Java's client does) is answered in this one. uvicorn
    alone would leave out its body, and take that for the next request.

    Without httptools it is "h11", which bounds heads itself, but neither silence nor connections.

    Args:
        most: connections at once; None for :func:`room`.
        silence: see :data:`SILENCE`.
    """
    try:
        import httptools
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        require("uvicorn", "Serving over HTTP", "serve")
        return "h11"
    limit = room() if most is None else most

    class Parser(httptools.HttpRequestParser):
        def __init__(self, reader: "Bounded") -> None:
            super().__init__(reader)
            self._reader = reader
            # As uvicorn has it: what comes behind a request that ends the connection is no reason not to answer it.
            self.set_dangerous_leniencies(lenient_data_after_close=True)

        def feed_data(self, data: Any) -> None:
            reader, parser = self._reader, self
            feed = httptools.HttpRequestParser.feed_data
            while True:
                try:
                    feed(parser, data)
                except httptools.HttpParserUpgrade as upgrade:
                    # It stops behind the head. Another one is given the same head without that wish, and so the body.
                    reader.parser = parser = Parser(reader)
                    feed(parser, reader.without_upgrade())
                    data = memoryview(data)[upgrade.args[0] :]
                else:
                    return

    class Bounded(HttpToolsProtocol):
        gathered = unsent = 0
        got_on = inside = upgrade = False
        asked = b"", b""
        since = 0.0
        look: asyncio.TimerHandle | None = None

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.parser = Parser(self)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limit:
                transport.write(FULL)
                transport.close()
                return
            self.since = self.loop.time()
            self.look = self.loop.call_later(silence, self.look_after)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.look is not None:
                self.look.cancel()

        def look_after(self) -> None:
            """Close a connection whose client owes the rest of a request, or takes nothing of an answer any more."""
            unsent = self.transport.get_write_buffer_size()
            if unsent and unsent == self.unsent:
                self.transport.abort()
                return
            self.unsent = unsent
            waits = self.cycle is None or self.gathered or (self.inside and not self.flow.read_paused)
            left = self.since + silence - self.loop.time()
            if waits and left <= 0:
                self.transport.close()
            self.look = self.loop.call_later(left if waits and left > 0 else silence, self.look_after)

        def data_received(self, data: bytes) -> None:
            self.got_on = False
            super().data_received(data)
            if self.got_on or not self.gathered:
                self.since = self.loop.time()
            self.gathered = 0 if self.got_on else self.gathered + len(data)
            if self.gathered > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

        def without_upgrade(self) -> bytes:
            """The head that has been read, without its wish for another protocol."""
            self.upgrade = False
            lines = [b": ".join(header) for header in self.headers if header[0] != b"upgrade"]
            first = b"%s %s HTTP/%s" % (self.asked[0], self.url, self.asked[1])
            return b"\r\n".join((first, *lines, b"", b""))

        def on_headers_complete(self) -> None:
            self.got_on = True
            if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
                self.upgrade = True
                self.asked = self.parser.get_method(), self.parser.get_http_version().encode()
                return
            self.inside = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self.got_on = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.got_on = True
            if not self.upgrade:
                self.inside = False
                super().on_message_complete()

    return Bounded
