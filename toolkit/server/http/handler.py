"""What a handler of HTTP is, and what becomes of what it raises."""

from collections.abc import Awaitable, Callable

from toolkit.server.front import Front, told
from toolkit.server.http.asgi import Receive, Reply, Scope, as_json

OPEN = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""What needs no token: the page, which asks for it and shows nothing without, and what supervisors look at."""

Handler = Callable[[Front, Scope, Receive], Awaitable[Reply]]


def let_in(front: Front, scope: Scope) -> None:
    """Refuse a request that lacks the token.

    Raises:
        UnauthorisedError: the token is missing or wrong.
    """
    if front.token is not None and scope["path"] not in OPEN:
        front.check_token(dict(scope["headers"]).get(b"authorization"))


def refusal(error: Exception) -> Reply:
    """The reply to a request that ended in an error."""
    said = told(error)
    reply = as_json({"error": said.message}, said.status)
    if said.retry_after is not None:
        return reply._replace(headers=(*reply.headers, (b"retry-after", b"%d" % max(1, round(said.retry_after)))))
    if said.status == 401:
        return reply._replace(headers=(*reply.headers, (b"www-authenticate", b"Bearer")))
    return reply
