"""The gRPC server."""

from typing import TYPE_CHECKING, Any

from engines.errors import MissingLibraryError
from engines.optional import require
from toolkit.server.front import Front
from toolkit.server.grpc import health
from toolkit.server.grpc.calls import reader, unary
from toolkit.server.grpc.infer import model_infer, model_stream_infer
from toolkit.server.grpc.methods import METHODS, unsupported
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.interface import Plane
from toolkit.server.settings import LARGEST_MESSAGE, FrontSettings

if TYPE_CHECKING:
    import grpc.aio


def make_server(plane: Plane, settings: FrontSettings, metrics: FrontMetrics) -> "grpc.aio.Server":
    """The server that answers for ``plane``, without an address as yet; made in the event loop that it runs in.

    Raises:
        MissingLibraryError: grpcio or tritonclient is not installed.
    """
    require("grpc.aio", "Serving over gRPC", "serve")
    import grpc.aio

    try:
        from tritonclient.grpc import service_pb2
    except (ImportError, RuntimeError):  # it raises this where its own extra is missing
        raise MissingLibraryError("Serving over gRPC", "tritonclient", "serve") from None
    front = Front.of(plane, settings, metrics)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", min(settings.limits.max_body, LARGEST_MESSAGE)),
            ("grpc.max_send_message_length", -1),
            # Two servers that share a port unawares each get some of the requests.
            ("grpc.so_reuseport", 0),
        ]
    )
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    handlers = {method.name: _handler(front, method) for method in service.methods}
    check, write = health.check(front, service.full_name)
    checks = {"Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=write)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(service.full_name, handlers),
            grpc.method_handlers_generic_handler(health.SERVICE, checks),
        )
    )
    return server


def _handler(front: Front, method: Any) -> Any:
    """What grpc calls for a method of the service."""
    import grpc

    factory = require("google.protobuf.message_factory", "Serving over gRPC", "serve")
    read = reader(factory.GetMessageClass(method.input_type))
    write = factory.GetMessageClass(method.output_type).SerializeToString
    if method.name == "ModelStreamInfer":
        stream = model_stream_infer(front, read)
        return grpc.stream_stream_rpc_method_handler(stream, response_serializer=write)
    if method.name == "ModelInfer":
        body = model_infer(front, read)
    else:
        body = unary(front, method.name, read, METHODS.get(method.name, unsupported))
    return grpc.unary_unary_rpc_method_handler(body, response_serializer=write)
