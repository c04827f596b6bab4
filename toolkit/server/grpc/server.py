"""The gRPC server."""

from typing import TYPE_CHECKING, Any

from engines.errors import MissingLibraryError
from engines.optional import require
from toolkit.server.front import Front
from toolkit.server.grpc import health
from toolkit.server.grpc.calls import Call, Read, reader, unary
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

    service = _service()
    front = Front.of(plane, settings, metrics)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", min(settings.limits.max_body, LARGEST_MESSAGE)),
            ("grpc.max_send_message_length", -1),
            # Two servers that share a port unawares each get some of the requests.
            ("grpc.so_reuseport", 0),
        ]
    )
    calls = unary_calls(front)
    handlers = {method.name: _handler(front, method, calls.get(method.name)) for method in service.methods}
    check, write = health.check(front, service.full_name)
    checks = {"Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=write)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(service.full_name, handlers),
            grpc.method_handlers_generic_handler(health.SERVICE, checks),
        )
    )
    return server


def unary_calls(front: Front) -> dict[str, Call]:
    """The service's methods with one message in and one out, by name.

    Raises:
        MissingLibraryError: tritonclient is not installed.
    """
    calls = {}
    for method in _service().methods:
        if method.name == "ModelInfer":
            calls[method.name] = model_infer(front, _reader(method))
        elif method.name != "ModelStreamInfer":
            calls[method.name] = unary(front, method.name, _reader(method), METHODS.get(method.name, unsupported))
    return calls


def _handler(front: Front, method: Any, call: Call | None) -> Any:
    """What grpc calls for a method of the service; without ``call`` it is that of streams."""
    import grpc

    write = _class_of(method.output_type).SerializeToString
    if call is None:
        stream = model_stream_infer(front, _reader(method))
        return grpc.stream_stream_rpc_method_handler(stream, response_serializer=write)
    return grpc.unary_unary_rpc_method_handler(call, response_serializer=write)


def _reader(method: Any) -> Read:
    return reader(_class_of(method.input_type))


def _class_of(kind: Any) -> Any:
    return require("google.protobuf.message_factory", "Serving over gRPC", "serve").GetMessageClass(kind)


def _service() -> Any:
    try:
        from tritonclient.grpc import service_pb2
    except (ImportError, RuntimeError):  # it raises this where its own extra is missing
        raise MissingLibraryError("Serving over gRPC", "tritonclient", "serve") from None
    return service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
