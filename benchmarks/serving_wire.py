"""Requests as prepared bytes, and answers read from bytes: what a load generator sends and checks.

Every function that makes requests takes ``images``, uint8 [count, height, width, channels], and gives one request of
one image for each. The wires:

- ``oip-binary``: Open Inference Protocol over HTTP, tensors as bytes behind the JSON, both ways.
- ``oip-json``: the same protocol with the tensors as JSON numbers, for a server that knows nothing else.
- ``raw``: the image's bytes as the body, the logits' bytes as the answer.
- ``oip-grpc``: the protocol's gRPC messages with ``raw_input_contents``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTH = "Inference-Header-Content-Length"
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Names:
    """What the protocol has to name: the model, its input and its output."""

    model: str
    input: str
    output: str


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    Attributes:
        status: of HTTP; for gRPC 200, or the status code's number times -1.
        body: its bytes; the message of an error that came by gRPC.
        header_length: of the JSON before the tensors; None where it wasn't said.
    """

    status: int
    body: bytes
    header_length: int | None = None


def post(path: str, body: bytes, *headers: str) -> bytes:
    """An HTTP/1.1 request on a connection that stays open."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def oip_binary(names: Names, images: Any) -> list[bytes]:
    requests = []
    for number, image in enumerate(images):
        tensor = {
            "name": names.input, "shape": [1, *image.shape], "datatype": "UINT8",
            "parameters": {"binary_data_size": image.nbytes},
        }  # fmt: skip
        output = {"name": names.output, "parameters": {"binary_data": True}}
        request = {"id": str(number), "inputs": [tensor], "outputs": [output]}
        head = json.dumps(request, separators=(",", ":")).encode()
        kind = "Content-Type: application/octet-stream"
        requests.append(post(_infer(names), head + image.tobytes(), kind, f"{LENGTH}: {len(head)}"))
    return requests


def oip_json(names: Names, images: Any) -> list[bytes]:
    requests = []
    for number, image in enumerate(images):
        tensor = {
            "name": names.input, "shape": [1, *image.shape], "datatype": "UINT8", "data": image.ravel().tolist()
        }  # fmt: skip
        body = json.dumps({"id": str(number), "inputs": [tensor]}, separators=(",", ":")).encode()
        requests.append(post(_infer(names), body, "Content-Type: application/json"))
    return requests


def raw(_: Names, images: Any) -> list[bytes]:
    return [post("/predict", image.tobytes(), "Content-Type: application/octet-stream") for image in images]


def oip_grpc(names: Names, images: Any) -> list[bytes]:
    from tritonclient.grpc import service_pb2 as messages

    requests = []
    for number, image in enumerate(images):
        request = messages.ModelInferRequest(model_name=names.model, id=str(number))
        request.raw_input_contents.append(image.tobytes())
        request.inputs.add(name=names.input, datatype="UINT8", shape=[1, *image.shape])
        request.outputs.add(name=names.output)
        requests.append(request.SerializeToString())
    return requests


WIRES: dict[str, Callable[[Names, Any], list[bytes]]] = {
    "oip-binary": oip_binary,
    "oip-json": oip_json,
    "raw": raw,
    "oip-grpc": oip_grpc,
}


def logits(wire: str, names: Names, reply: Reply) -> Any:
    """float32 [classes] of a good reply.

    Raises:
        ValueError: it is none, and how it looks instead.
    """
    if reply.status != 200:
        raise ValueError(f"status {reply.status}: {reply.body[:200]!r}")
    if wire == "raw":
        return np.frombuffer(reply.body, np.float32)
    return _of_grpc(names, reply.body) if wire == "oip-grpc" else _of_http(names, reply)


def _of_http(names: Names, reply: Reply) -> Any:
    length = len(reply.body) if reply.header_length is None else reply.header_length
    at = length
    for output in json.loads(reply.body[:length])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if output["name"] == names.output:
            values = output["data"] if size is None else np.frombuffer(reply.body[at : at + size], np.float32)
            return np.asarray(values, np.float32).ravel()
        at += size or 0
    raise ValueError(f"no output {names.output}: {reply.body[:200]!r}")


def _of_grpc(names: Names, body: bytes) -> Any:
    from tritonclient.grpc import service_pb2 as messages

    answer = messages.ModelInferResponse.FromString(body)
    for number, output in enumerate(answer.outputs):
        if output.name == names.output:
            if answer.raw_output_contents:
                return np.frombuffer(answer.raw_output_contents[number], np.float32)
            return np.asarray(output.contents.fp32_contents, np.float32)
    raise ValueError(f"no output {names.output}: {answer.outputs}")


def _infer(names: Names) -> str:
    return f"/v2/models/{names.model}/infer"
