"""What goes wrong between a front and its replicas, in toolkit's words."""

import asyncio

from engines.errors import Overloaded, RunError, ToolkitError
from toolkit.server.protocol.messages import UnavailableError


def died(error: BaseException) -> bool:
    """Whether the replica that had a request is gone, so that another one may be asked."""
    from ray.exceptions import NodeDiedError, RayActorError
    from ray.serve.exceptions import ReplicaUnavailableError

    return isinstance(error, (RayActorError, NodeDiedError, ReplicaUnavailableError))


def ours(error: Exception) -> BaseException:
    """The error that a caller is told: the one that the replica raised, or one that says what Ray says."""
    from ray.exceptions import RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

    if isinstance(error, RayTaskError) and isinstance(error.cause, (ToolkitError, asyncio.CancelledError)):
        return error.cause
    if isinstance(error, ToolkitError):
        return error
    if isinstance(error, BackPressureError):
        return Overloaded("the replicas have as many requests as may wait", "send it again, or let there be more")
    if isinstance(error, DeploymentUnavailableError):
        return UnavailableError("no replica could be started", "see the logs of Ray for why")
    if isinstance(error, RequestCancelledError):
        return asyncio.CancelledError()
    return RunError(f"a replica failed: {type(error).__name__}", "see the logs of Ray")
