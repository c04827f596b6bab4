"""The ASGI application."""

from collections.abc import Mapping
from importlib.util import find_spec

from engines.errors import MissingLibraryError
from engines.optional import require
from toolkit.server.front import Front
from toolkit.server.http import classify, oip, pages
from toolkit.server.http.asgi import ClientGone, Receive, Reply, Scope, Send, as_json, send_reply
from toolkit.server.http.handler import Handler, let_in, refusal
from toolkit.server.http.infer import infer, model_of
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.interface import Plane
from toolkit.server.protocol.faults import CLIENT_CLOSED
from toolkit.server.protocol.limits import short
from toolkit.server.settings import FrontSettings

_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_REGIONS = ("/status", "/region/{name}/status", "/region/{name}/register", "/unregister", "/region/{name}/unregister")

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", pages.page),
    ("GET", "/metrics", pages.metrics),
    ("GET", "/models/{model}", pages.facts),
    ("POST", "/classify", classify.classify),
    ("POST", "/v2/models/{model}/classify", classify.classify),
    ("GET", "/v2", oip.server),
    ("GET", "/v2/health/live", oip.live),
    ("GET", "/v2/health/ready", oip.ready),
    ("GET", "/v2/models", oip.models),
    ("GET", "/v2/models/stats", oip.statistics),
    *(
        route
        for model in _MODEL
        for route in (
            ("GET", model, oip.model),
            ("GET", f"{model}/ready", oip.model_ready),
            ("GET", f"{model}/config", oip.config),
            ("GET", f"{model}/stats", oip.statistics),
            ("POST", f"{model}/infer", oip.unsupported),
        )
    ),
    ("POST", "/v2/repository/index", oip.index),
    ("POST", "/v2/repository/models/{model}/load", oip.load),
    ("POST", "/v2/repository/models/{model}/unload", oip.unload),
    ("GET POST", "/v2/logging", oip.unsupported),
    ("GET POST", "/v2/trace/setting", oip.unsupported),
    ("GET POST", "/v2/models/{model}/trace/setting", oip.unsupported),
    *(
        ("GET POST", f"/v2/{kind}sharedmemory{path}", oip.unsupported)
        for kind in ("system", "cuda")
        for path in _REGIONS
    ),
)
"""Methods, path and handler. Inference is among them for those who ask for it by another method than POST."""


def make_app(plane: Plane, settings: FrontSettings, metrics: FrontMetrics) -> "App":
    """The application that answers for ``plane``.

    Raises:
        MissingLibraryError: a library that a request needs is not installed.
    """
    require("starlette", "Serving over HTTP", "serve")
    for library in ("orjson", "prometheus_client", "python_multipart"):  # loaded when a request first needs them
        if find_spec(library) is None:
            raise MissingLibraryError("Serving over HTTP", library, "serve")
    return App(Front.of(plane, settings, metrics))


class App:
    """An ASGI application: inference goes straight to its handler, all else by way of Starlette's router."""

    def __init__(self, front: Front) -> None:
        from starlette.exceptions import HTTPException
        from starlette.routing import Route, Router

        self._front = front
        self._no_route = HTTPException
        self._router = Router(
            [Route(path, _Endpoint(front, handler), methods=methods.split()) for methods, path, handler in ROUTES],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.endswith("/infer") and scope["method"] == "POST" and (named := model_of(path)) is not None:
                scope["path_params"] = named
                await _serve(self._front, infer, scope, receive, send, counted=True)
                return
            scope["app"] = self  # with one, the router raises what it would else answer in words of its own
            try:
                await self._router(scope, receive, send)
            except self._no_route as error:
                reply = _nowhere(error.status_code, error.headers, scope)
                await send_reply(send, reply, last=self._front.plane.draining())
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close"})


class _Endpoint:
    """A handler as the router takes it: an application of its own."""

    def __init__(self, front: Front, handler: Handler) -> None:
        self._front, self._handler = front, handler
        self._counted = handler is classify.classify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _serve(self._front, self._handler, scope, receive, send, counted=self._counted)


async def _serve(
    front: Front, handler: Handler, scope: Scope, receive: Receive, send: Send, *, counted: bool
) -> None:
    """Have a request answered.

    Args:
        counted: whether it is one for a model, of which the metrics tell.
    """
    status = CLIENT_CLOSED
    if counted:
        front.metrics.began()
    try:
        try:
            let_in(front, scope)
            reply = await handler(front, scope, receive)
        except ClientGone:
            return
        except Exception as error:
            reply = refusal(error)
        status = reply.status
        await send_reply(send, reply, last=front.plane.draining())
    finally:
        front.bodies.give(scope.get("held", 0))
        if counted:
            model = scope.get("model") or scope["path_params"].get("model", "")
            front.metrics.ended(model, "http", status)


def _nowhere(status: int, headers: Mapping[str, str] | None, scope: Scope) -> Reply:
    """What is answered where there is nothing, or nothing for this method."""
    reply = as_json({"error": f"there is no {scope['method']} {short(scope['path'])} (see GET /v2)"}, status)
    allowed = tuple((name.lower().encode(), value.encode()) for name, value in (headers or {}).items())
    return reply._replace(headers=(*reply.headers, *allowed))


async def _lifespan(receive: Receive, send: Send) -> None:
    """The plane is opened and closed by who made it; the server only wants to be told that all is well."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
