"""What people and their tools look at: the page, a model's facts, the metrics."""

from toolkit.server.front import Front
from toolkit.server.http.asgi import Receive, Reply, Scope, as_json
from toolkit.server.protocol import describe


async def page(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /."""
    from toolkit.server.page import headers, html

    lines = tuple((name.encode(), value.encode()) for name, value in headers().items())
    return Reply(200, lines, html())


async def facts(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /models/M: what the protocol tells, and "facts": what toolkit knows besides, the passport among it."""
    metadata = front.plane.metadata(scope["path_params"]["model"])
    return as_json({**describe.model(metadata), "max_batch": metadata.max_batch, "facts": dict(metadata.facts)})


async def metrics(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /metrics, as Prometheus asks for it."""
    accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
    body, kind = front.metrics.render(accept)
    return Reply(200, ((b"content-type", kind.encode()),), body)
