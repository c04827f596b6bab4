"""What a cluster's own gRPC proxy is given, so that it speaks the protocol: name it among
``grpc_servicer_functions`` as ``toolkit.server.ray.wire.add_to_server``.

The proxy pickles messages on their way to the replicas. Those that were generated for tritonclient say that they are
of a module that can't be imported by the name it was generated under, so it is made known by that name here, in the
proxy and in the replicas.
"""

import sys
from typing import Any


def known() -> Any:
    """Make the messages' modules known by the names that they have in pickles; gives that of the service."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    for module in (service_pb2, model_config_pb2):
        sys.modules.setdefault(module.DESCRIPTOR.name.removesuffix(".proto") + "_pb2", module)
    return service_pb2


def add_to_server(servicer: Any, server: Any) -> None:
    """Register the service's methods, as functions that are generated for gRPC do."""
    known()
    from tritonclient.grpc import service_pb2_grpc

    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
