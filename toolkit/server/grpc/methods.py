"""The small methods of ``GRPCInferenceService``: health, what models are, what they have done, loading them again."""

from engines.errors import UnsupportedError
from toolkit.server.front import Front
from toolkit.server.grpc.calls import Message, Method
from toolkit.server.protocol import protobuf_form
from toolkit.server.protocol.messages import UnknownModelError


async def server_live(front: Front, request: Message) -> Message:
    """Whether the process works at all."""
    from tritonclient.grpc import service_pb2

    return service_pb2.ServerLiveResponse(live=front.plane.live())


async def server_ready(front: Front, request: Message) -> Message:
    """Whether every model can answer."""
    from tritonclient.grpc import service_pb2

    return service_pb2.ServerReadyResponse(ready=front.plane.ready())


async def model_ready(front: Front, request: Message) -> Message:
    """A model that there isn't is one that isn't ready, as with Triton."""
    from tritonclient.grpc import service_pb2

    try:
        ready = front.plane.model_ready(request.name, request.version)
    except UnknownModelError:
        ready = False
    return service_pb2.ModelReadyResponse(ready=ready)


async def server_metadata(front: Front, request: Message) -> Message:
    """Name, version, extensions."""
    return protobuf_form.server()


async def model_metadata(front: Front, request: Message) -> Message:
    """The model's tensors."""
    return protobuf_form.model(front.plane.metadata(request.name, request.version))


async def model_config(front: Front, request: Message) -> Message:
    """In the form of Triton's."""
    return protobuf_form.config(front.plane.metadata(request.name, request.version))


async def model_statistics(front: Front, request: Message) -> Message:
    """In the form of Triton's: of one model, or of all."""
    if request.name:
        front.plane.metadata(request.name, request.version)  # an unknown version is an error here too
    versions = {state.name: state.version for state in front.plane.index()}
    return protobuf_form.statistics(front.plane.statistics(request.name), versions)


async def repository_index(front: Front, request: Message) -> Message:
    """Every model, or those that are ready."""
    states = front.plane.index()
    return protobuf_form.index(state for state in states if state.state == "READY" or not request.ready)


async def repository_model_load(front: Front, request: Message) -> Message:
    """Open its file again."""
    from tritonclient.grpc import service_pb2

    if request.parameters:
        raise UnsupportedError(
            "a model is loaded from the file that the server was started with, without parameters",
            "replace the file, and load it again without parameters",
        )
    await front.plane.reload(request.model_name)
    return service_pb2.RepositoryModelLoadResponse()


async def repository_model_unload(front: Front, request: Message) -> Message:
    """The models are what the server was started with."""
    front.plane.model_ready(request.model_name)
    raise UnsupportedError("models are not unloaded while the server runs", "start it without this one")


async def unsupported(front: Front, request: Message) -> Message:
    """Triton's shared memory, tracing and logging."""
    raise UnsupportedError(
        "this server has no shared memory, tracing or log settings",
        "send tensors in the request; ServerMetadata names the extensions that it has",
    )


METHODS: dict[str, Method] = {
    "ServerLive": server_live,
    "ServerReady": server_ready,
    "ModelReady": model_ready,
    "ServerMetadata": server_metadata,
    "ModelMetadata": model_metadata,
    "ModelConfig": model_config,
    "ModelStatistics": model_statistics,
    "RepositoryIndex": repository_index,
    "RepositoryModelLoad": repository_model_load,
    "RepositoryModelUnload": repository_model_unload,
}
"""By name; those that the service has besides are :func:`unsupported`, but for the two of inference."""
