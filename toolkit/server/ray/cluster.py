"""A cluster, and the models on it for as long as a server runs."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.errors import RunError, ToolkitError
from engines.optional import require
from toolkit.ray_cluster import joined, no_stderr, shortly
from toolkit.server.ray.application import replicas
from toolkit.server.ray.failures import ours
from toolkit.server.ray.settings import RaySettings
from toolkit.server.settings import ModelSettings, Source

_LOGGING = {"log_level": "ERROR", "enable_access_log": False}


@contextmanager
def deployed(
    sources: Sequence[Source], models: ModelSettings, settings: RaySettings, *, watched: bool = True
) -> Iterator[Any]:
    """Put the models on a cluster, and take them off in the end.

    Yields:
        The deployment's handle.

    Raises:
        MissingLibraryError: Ray Serve is not installed.
        InputError: the cluster can't be reached, or a model can't be opened.
        RunError: the replicas don't start.
    """
    ray = require("ray", "Scaling out", "ray")
    serve = require("ray.serve", "Scaling out", "ray")
    sources = tuple(Source(source.name, Path(source.path).resolve()) for source in sources)
    joining = joined(ray, settings.address, workers=settings.most, gpus=settings.gpus, what="replicas")
    with joining as own, _quiet():
        # The fronts are ours, in this process; Serve's own would take the ports.
        serve.start(proxy_location="Disabled", logging_config=_LOGGING)
        # It sets up the log of this process anew.
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        try:
            handle = serve.run(
                replicas(sources, models, settings, watched=watched),
                name=settings.application, route_prefix=None, logging_config=_LOGGING,
            )  # fmt: skip
        except Exception as error:
            raise _refused(error) from error
        try:
            yield handle
        finally:
            serve.delete(settings.application)
            if own:
                with no_stderr():
                    serve.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Serve's notes on what it does, of which the fronts tell in the protocol's words."""
    log = logging.getLogger("ray.serve")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _refused(error: Exception) -> BaseException:
    """Why the deployment didn't come up."""
    found = ours(error)
    if isinstance(found, ToolkitError) and type(found) is not RunError:
        return found
    return RunError(
        f"the replicas didn't start: {shortly(error)}",
        "see the logs of Ray, and whether it has the GPUs asked for",
    )
