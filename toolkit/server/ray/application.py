"""The Serve application: replicas with the models, and, for clusters that have their own proxies, a front with the
protocol before them.

::

    serve run toolkit.server.ray.application:application models=model.fp16.engine gpus=0.5 replicas=1:4

HTTP works as it is; for gRPC the cluster's proxies are started with ``toolkit.server.ray.wire.add_to_server`` among
their ``grpc_servicer_functions``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.errors import InputError, RunError
from engines.optional import require
from toolkit.server.front import Front
from toolkit.server.grpc.methods import METHODS
from toolkit.server.grpc.server import unary_calls
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.opening import sources_of
from toolkit.server.ray.remote import RayPlane
from toolkit.server.ray.replica import Replica
from toolkit.server.ray.settings import RaySettings, replicas_of
from toolkit.server.ray.wire import known
from toolkit.server.settings import FrontSettings, ModelSettings, Source

ONGOING = 1 << 20
"""Requests that one replica takes at once: as good as any number, for it is the batcher's queue that bounds them, and
says so in the protocol's words."""


def replicas(sources: Sequence[Source], models: ModelSettings, ray: RaySettings, *, watched: bool = True) -> Any:
    """The deployment of the models, bound.

    Args:
        sources: the models; their files must lie at the same place on every node.
        models: how they are opened and batched.
        ray: how many replicas, and what each gets.
        watched: whether files that are replaced are opened again.

    Raises:
        MissingLibraryError: Ray Serve is not installed.
    """
    serve = require("ray.serve", "Scaling out", "ray")
    scale: dict[str, Any] = {"num_replicas": ray.most}
    if ray.least != ray.most:
        scale = {
            "autoscaling_config": {
                "min_replicas": ray.least,
                "max_replicas": ray.most,
                "target_ongoing_requests": ray.target,
            }
        }
    deployment = serve.deployment(
        Replica,
        name="models",
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": ray.cpus, "num_gpus": ray.gpus},
        health_check_period_s=ray.health_period,
        graceful_shutdown_timeout_s=ray.drain_timeout,
        **scale,
    )
    return deployment.bind(sources, models, watched=watched)


class RayFront:
    """The protocol in a replica of its own: HTTP by Serve's proxy, gRPC by its gRPC proxy.

    Args:
        handle: of the deployment of the models.
        settings: what is taken.

    Attributes:
        calls: the protocol's methods over gRPC, by name.
    """

    def __init__(self, handle: Any, settings: FrontSettings) -> None:
        known()
        self._plane = RayPlane(handle)
        self._settings, self._metrics = settings, FrontMetrics(self._plane)
        self.calls = unary_calls(Front.of(self._plane, settings, self._metrics))

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve: the application that answers HTTP."""
        from toolkit.server.http.app import make_app

        return make_app(self._plane, self._settings, self._metrics)

    async def check_health(self) -> None:
        """Called by Serve; the first time, ask the models' replicas what they serve."""
        await self._plane.open()


class _Context:
    """The context of a call through Serve's gRPC proxy, as far as the protocol's methods need one of grpc itself."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.invocation_metadata = context.invocation_metadata

    def time_remaining(self) -> None:
        """The proxy keeps the call's deadline."""

    async def abort(self, code: Any, details: str, trailers: Sequence[tuple[str, str]]) -> None:
        """Give the proxy the call's status; raises, as grpc's own does."""
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailers))
        raise RunError(details)


def _delegate(name: str) -> Any:
    """The method that Serve's gRPC proxy calls by this name."""

    async def call(self: RayFront, request: Any, grpc_context: Any) -> Any:
        return await self.calls[name](request.SerializeToString(), _Context(grpc_context))

    call.__name__ = name
    return call


for _name in ("ModelInfer", *METHODS):
    setattr(RayFront, _name, _delegate(_name))


def application(options: Mapping[str, str]) -> Any:
    """The whole application for ``serve run`` and Serve's configuration files.

    Args:
        options: "models" (``PATH`` or ``NAME=PATH``, several with commas), and where they are to differ from their
            defaults "replicas" ("2", or "1:4" to scale between), "gpus" and "cpus" of a replica (fractions too),
            "target" (requests under way in a replica that the scaling aims at), "max_batch", "queue", "device".
            The bearer token is taken from ``TOOLKIT_TOKEN`` where the application is built.

    Raises:
        InputError: an option is missing, unknown or makes no sense.
    """
    serve = require("ray.serve", "Scaling out", "ray")
    known = {"models", "replicas", "gpus", "cpus", "target", "max_batch", "queue", "device"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"unknown option {', '.join(unknown)}", f"options are {', '.join(sorted(known))}")
    if not options.get("models"):
        raise InputError("the application has no models", "give models=model.fp16.engine")
    try:
        least, most = replicas_of(options.get("replicas", "1"))
        ray = RaySettings(
            least=least,
            most=most,
            gpus=float(options.get("gpus", 0)),
            cpus=float(options.get("cpus", 1)),
            target=float(options.get("target", RaySettings.target)),
        )
        batch = options.get("max_batch")
        models = ModelSettings(
            devices=(options.get("device", "auto"),),
            max_batch=None if batch is None else int(batch),
            queue=int(options.get("queue", ModelSettings.queue)),
        )
    except ValueError as error:
        raise InputError(f"an option is no number: {error}", "give numbers, as replicas=1:4 gpus=0.5") from error
    sources = tuple(
        Source(source.name, Path(source.path).resolve()) for source in sources_of(options["models"].split(","))
    )
    settings = FrontSettings(token=os.environ.get("TOOLKIT_TOKEN") or None)
    # A front only moves bytes; as many as the proxies can keep busy cost little.
    front = serve.deployment(serve.ingress()(RayFront), name="front", max_ongoing_requests=ONGOING, num_replicas=1)
    return front.bind(replicas(sources, models, ray), settings)
