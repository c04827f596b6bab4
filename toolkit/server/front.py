"""What HTTP and gRPC have in common: whom they let in, and what they say of an error."""

import asyncio
import hmac
import logging
from dataclasses import dataclass, field
from typing import Self

from engines.errors import Overloaded, ToolkitError
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.interface import Plane
from toolkit.server.protocol.faults import Fault, fault
from toolkit.server.protocol.messages import UnauthorisedError
from toolkit.server.settings import FrontSettings

log = logging.getLogger(__name__)


class Bodies:
    """What the requests under way hold in memory: bounded, whoever sends them. It belongs to one event loop.

    Args:
        most: bytes.

    Attributes:
        held: bytes now.
    """

    def __init__(self, most: int) -> None:
        self._most, self.held = most, 0

    def take(self, size: int, own: int = 0) -> int:
        """Make room for ``size`` bytes more; there is always room for a request that is alone.

        Args:
            size: of what has come.
            own: bytes that the same request has taken already.

        Returns:
            What it has taken now.

        Raises:
            Overloaded: there is none.
        """
        if self.held > own and self.held + size > self._most:
            raise Overloaded(
                f"the requests under way have {self.held >> 20} MiB, and the server holds {self._most >> 20} at most",
                "try again later, or send smaller requests",
            )
        self.held += size
        return own + size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.held -= size


@dataclass(frozen=True)
class Front:
    """What the handlers work with.

    Attributes:
        plane: answers.
        settings: what is taken.
        metrics: what is counted.
        token: that requests must bear; None where they needn't.
        bodies: what is held of requests.
        turn: of those whose JSON takes long to read, and many times its size in memory: one after the other.
    """

    plane: Plane
    settings: FrontSettings
    metrics: FrontMetrics
    token: bytes | None
    bodies: Bodies
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, plane: Plane, settings: FrontSettings, metrics: FrontMetrics) -> Self:
        """What the handlers of one server share."""
        token = None if settings.token is None else settings.token.encode()
        return cls(plane, settings, metrics, token, Bodies(settings.max_held))

    def check_token(self, authorization: bytes | None) -> None:
        """Refuse who doesn't bear the token.

        Args:
            authorization: what the header of this name says, "Bearer TOKEN"; None where there is none.

        Raises:
            UnauthorisedError: the token is missing or wrong.
        """
        if self.token is None:
            return
        if authorization is None:
            raise UnauthorisedError("the request bears no token", "send the header 'Authorization: Bearer TOKEN'")
        kind, _, borne = authorization.partition(b" ")
        # In a time that doesn't tell how much of it was right.
        if kind.lower() != b"bearer" or not hmac.compare_digest(borne.strip(), self.token):
            raise UnauthorisedError("the request bears the wrong token", "send the server's")


def told(error: BaseException) -> Fault:
    """What a client is told of an error; what went wrong inside, the log alone is told."""
    said = fault(error)
    if said.code == "INTERNAL" and not isinstance(error, ToolkitError):
        log.error("a request failed unexpectedly", exc_info=error)
    return said
