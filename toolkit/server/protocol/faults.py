"""What a client is told of an error: a status of HTTP, a code of gRPC, a message."""

from asyncio import CancelledError as TaskCancelled
from concurrent.futures import CancelledError as FutureCancelled
from dataclasses import dataclass

from engines.errors import DeadlineExceeded, InputError, Overloaded, ToolkitError, UnsupportedError
from toolkit.server.protocol.messages import (
    TooLargeError,
    UnauthorisedError,
    UnavailableError,
    UnknownModelError,
)

RETRY_AFTER = 1.0
"""Seconds after which to ask again: the least that HTTP's ``Retry-After`` can say; a queue empties sooner."""

CLIENT_CLOSED = 499
"""The status for a request whose client has gone, by common use; no client sees it, logs and metrics do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as a front answers it.

    Attributes:
        status: of HTTP.
        code: the name of gRPC's status code: ``grpc.StatusCode[fault.code]``.
        message: cause and remedy in one line.
        retry_after: seconds after which the same request may succeed; None where it won't.
    """

    status: int
    code: str
    message: str
    retry_after: float | None = None


# The first that fits: those further down are bases of those above them.
_FAULTS: tuple[tuple[tuple[type[BaseException], ...], int, str], ...] = (
    ((UnknownModelError,), 404, "NOT_FOUND"),
    # grpc itself says RESOURCE_EXHAUSTED of a message that is larger than it may be.
    ((TooLargeError,), 413, "RESOURCE_EXHAUSTED"),
    ((UnauthorisedError,), 401, "UNAUTHENTICATED"),
    ((InputError,), 400, "INVALID_ARGUMENT"),
    ((UnsupportedError,), 400, "UNIMPLEMENTED"),
    ((Overloaded, UnavailableError), 503, "UNAVAILABLE"),
    ((DeadlineExceeded, TimeoutError), 504, "DEADLINE_EXCEEDED"),
    ((TaskCancelled, FutureCancelled), CLIENT_CLOSED, "CANCELLED"),
)


def fault(error: BaseException) -> Fault:
    """What to answer for an error, whichever it is.

    What isn't a :class:`~engines.errors.ToolkitError` wasn't written for others to read: its text stays here.
    """
    for kinds, status, code in _FAULTS:
        if isinstance(error, kinds):
            return Fault(status, code, _message(error, code), RETRY_AFTER if code == "UNAVAILABLE" else None)
    return Fault(500, "INTERNAL", _message(error, "INTERNAL"))


LONGEST = 2000
"""Characters of a message. Values that a client sent are cut where messages repeat them; this is for many at once."""

_TEXTS = {
    "CANCELLED": "the request was cancelled",
    "DEADLINE_EXCEEDED": "the request's time was up before it was answered",
}


def _message(error: BaseException, code: str) -> str:
    if isinstance(error, ToolkitError):
        text = " ".join(str(error).split())
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return _TEXTS.get(code, "the server failed at this request; its log says why")
