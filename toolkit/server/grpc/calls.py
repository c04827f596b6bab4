"""How a call is answered: let in, counted, its errors made statuses."""

from collections.abc import Awaitable, Callable
from typing import Any

from engines.errors import InputError
from engines.optional import require
from toolkit.server.front import Front, told
from toolkit.server.protocol.faults import Fault

Message = Any
"""A protobuf message: its classes are made when the program runs."""

Context = Any
"""``grpc.aio.ServicerContext``."""

Method = Callable[[Front, Message], Awaitable[Message]]

Call = Callable[[bytes, Context], Awaitable[Message]]
"""A method with one message in and one out, as grpc takes it."""

Read = Callable[[bytes], Message]
"""Reads a message; raises InputError where there is none."""

OPEN = frozenset({"ServerLive", "ServerReady", "Check"})
"""What needs no token: what supervisors look at."""

LONGEST = 1000
"""Characters of a message: it travels among the trailers, of which clients take 8 KiB."""


def let_in(front: Front, context: Context) -> None:
    """Refuse a call that lacks the token.

    Raises:
        UnauthorisedError: the token is missing or wrong.
    """
    if front.token is not None:
        borne = dict(context.invocation_metadata()).get("authorization")
        front.check_token(borne.encode("utf-8", "replace") if isinstance(borne, str) else borne)


async def refuse(context: Context, said: Fault) -> None:
    """End a call with a status; raises, as grpc wants it."""
    import grpc

    trailers = () if said.retry_after is None else (("retry-after", f"{max(1, round(said.retry_after))}"),)
    await context.abort(grpc.StatusCode[said.code], text(said), trailers)


def text(said: Fault) -> str:
    """The message as it may be sent."""
    return said.message[:LONGEST].encode("utf-8", "replace").decode()


def reader(kind: Any) -> Read:
    """What reads messages of a class. Left to grpc itself, bytes that are none would be the server's own failure."""
    error: type[Exception] = require("google.protobuf.message", "Serving over gRPC", "serve").DecodeError
    parse, name = kind.FromString, kind.DESCRIPTOR.name

    def read(data: bytes) -> Message:
        try:
            return parse(data)
        except error:
            raise InputError(f"what came is no {name}", "send a message of the protocol's definition") from None

    return read


def unary(front: Front, name: str, read: Read, method: Method) -> Call:
    """A method with one message in and one out, as grpc takes it."""

    async def call(data: bytes, context: Context) -> Message:
        try:
            if name not in OPEN:
                let_in(front, context)
            return await method(front, read(data))
        except Exception as error:
            said = told(error)
        return await refuse(context, said)

    return call
