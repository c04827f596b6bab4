"""The Open Inference Protocol's small questions: health, what models are, what they have done, loading them again."""

from typing import Any

from engines.errors import UnsupportedError
from toolkit.server.front import Front
from toolkit.server.http.asgi import Receive, Reply, Scope, as_json
from toolkit.server.http.body import read
from toolkit.server.protocol import describe, http_form

SMALL = 1 << 20
"""Bytes of a body that says which models, or with which options."""


async def live(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/health/live."""
    good = front.plane.live()
    return as_json({"live": good}, 200 if good else 503)


async def ready(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/health/ready."""
    good = front.plane.ready()
    return as_json({"ready": good}, 200 if good else 503)


async def server(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2."""
    return as_json(describe.server())


async def models(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/models: their names, as KServe lists them."""
    return as_json({"models": [state.name for state in front.plane.index()]})


async def model(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/models/M."""
    return as_json(describe.model(front.plane.metadata(*_named(scope))))


async def model_ready(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/models/M/ready."""
    name, version = _named(scope)
    good = front.plane.model_ready(name, version)
    return as_json({"name": name, "ready": good}, 200 if good else 503)


async def config(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/models/M/config, in the form of Triton's."""
    return as_json(describe.config(front.plane.metadata(*_named(scope))))


async def statistics(front: Front, scope: Scope, receive: Receive) -> Reply:
    """GET /v2/models/M/stats and /v2/models/stats, in the form of Triton's."""
    name, version = _named(scope)
    if name:
        front.plane.metadata(name, version)  # an unknown version is an error here too
    return as_json(describe.statistics(front.plane.statistics(name), _versions(front)))


async def index(front: Front, scope: Scope, receive: Receive) -> Reply:
    """POST /v2/repository/index; ``{"ready": true}`` asks for those that are."""
    asked = await _asked(front, scope, receive)
    states = front.plane.index()
    if asked.get("ready") is True:
        states = tuple(state for state in states if state.state == "READY")
    return as_json(describe.index(states))


async def load(front: Front, scope: Scope, receive: Receive) -> Reply:
    """POST /v2/repository/models/M/load: open its file again."""
    name, _ = _named(scope)
    if (await _asked(front, scope, receive)).get("parameters"):
        raise UnsupportedError(
            "a model is loaded from the file that the server was started with, without parameters",
            "replace the file, and load it again without parameters",
        )
    await front.plane.reload(name)
    return as_json({"name": name, "load": True})


async def unload(front: Front, scope: Scope, receive: Receive) -> Reply:
    """POST /v2/repository/models/M/unload: the models are what the server was started with."""
    name, _ = _named(scope)
    front.plane.model_ready(name)
    raise UnsupportedError("models are not unloaded while the server runs", "start it without this one")


async def unsupported(front: Front, scope: Scope, receive: Receive) -> Reply:
    """Triton's shared memory, tracing and logging."""
    raise UnsupportedError(
        f"this server has no {scope['path'].strip('/').partition('/')[2][:80]}",
        "send tensors in the request; see GET /v2 for the extensions that it has",
    )


def _versions(front: Front) -> dict[str, str]:
    """By model, the version that is served."""
    return {state.name: state.version for state in front.plane.index()}


def _named(scope: Scope) -> tuple[str, str]:
    """Name and version that the path holds."""
    parameters = scope["path_params"]
    return parameters.get("model", ""), parameters.get("version", "")


async def _asked(front: Front, scope: Scope, receive: Receive) -> dict[str, Any]:
    """The body's JSON object; none is an empty one."""
    limit = min(SMALL, front.settings.limits.max_body)
    return http_form.load(await read(front, scope, receive, limit), front.settings.limits)
