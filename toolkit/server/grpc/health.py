"""``grpc.health.v1.Health/Check``, which Kubernetes and ``grpc_health_probe`` ask."""

from collections.abc import Callable
from functools import cache
from typing import Any

from engines.optional import require
from toolkit.server.front import Front
from toolkit.server.grpc.calls import Call, Message, reader, unary
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import UnknownModelError

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING = 1, 2


@cache
def messages() -> tuple[Any, Any]:
    """The classes ``HealthCheckRequest`` (a service's name) and ``HealthCheckResponse`` (a status).

    They are described here, in a pool of their own: the package that has them is one more to install.
    """
    descriptors, pools, factory = (
        require(f"google.protobuf.{module}", "Serving over gRPC", "serve")
        for module in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    file = descriptors.FileDescriptorProto(name="toolkit/health.proto", package="grpc.health.v1", syntax="proto3")
    field_of = descriptors.FieldDescriptorProto
    kinds = (
        ("HealthCheckRequest", "service", field_of.TYPE_STRING),
        # On the wire the enumeration of states is a number.
        ("HealthCheckResponse", "status", field_of.TYPE_INT32),
    )
    for message, field, kind in kinds:
        file.message_type.add(name=message).field.add(name=field, number=1, type=kind, label=field_of.LABEL_OPTIONAL)
    pool = pools.DescriptorPool()
    pool.Add(file)
    request, response = (
        factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.{name}")) for name, _, _ in kinds
    )
    return request, response


def check(front: Front, service: str) -> tuple[Call, Callable[[Message], bytes]]:
    """``Check`` as grpc takes it, and what writes its answer.

    Args:
        service: what may be asked for beside "", the whole server; of both it is told whether every model can answer.
    """
    request, response = messages()

    async def check(front: Front, asked: Message) -> Message:
        if asked.service not in {"", service}:
            raise UnknownModelError(f"there is no service {short(asked.service)}", f"ask for '' or '{service}'")
        return response(status=SERVING if front.plane.ready() else NOT_SERVING)

    return unary(front, "Check", reader(request), check), response.SerializeToString
