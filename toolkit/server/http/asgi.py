"""The few words of ASGI that the front uses, and what a handler gives back."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON = (b"content-type", b"application/json")


class Reply(NamedTuple):
    """An answer: its status, headers without the length, and body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class ClientGone(Exception):  # noqa: N818 - what has happened, not what is wrong
    """Nobody waits for the answer any more."""


def as_json(value: object, status: int = 200) -> Reply:
    """A reply of JSON."""
    return Reply(status, (JSON,), json.dumps(value, separators=(",", ":")).encode())


async def send_reply(send: Send, reply: Reply, *, last: bool) -> None:
    """Send it; ``last`` tells the client to open another connection for its next request."""
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    if last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
