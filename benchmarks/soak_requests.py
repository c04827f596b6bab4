"""Requests of a soak as bytes, good ones and bad ones, and what is read of the answers."""

import json
import math
from typing import Any

import numpy as np

from benchmarks.serving_wire import LENGTH, Reply, post

MODEL = "soak"
INFER = f"/v2/models/{MODEL}/infer"


def binary_request(
    rows: Any,
    *,
    parameters: dict[str, Any] | None = None,
    path: str = INFER,
    name: str = "x",
    datatype: str = "FP32",
    missing: int = 0,
    length: str | None = None,
) -> bytes:
    """A request whose tensor follows the JSON as bytes; ``missing`` ones or a wrong ``length`` make it a bad one."""
    tensor = {
        "name": name,
        "shape": rows.shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": rows.nbytes},
    }
    head = {"id": "soak", "inputs": [tensor], "parameters": {"binary_data_output": True, **(parameters or {})}}
    text = json.dumps(head).encode()
    body = text + rows.tobytes()[: rows.nbytes - missing]
    return post(path, body, "Content-Type: application/octet-stream", f"{LENGTH}: {length or len(text)}")


def json_request(rows: Any, *, parameters: dict[str, Any] | None = None) -> bytes:
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": parameters or {}}).encode()
    return post(INFER, body, "Content-Type: application/json")


def http_outputs(reply: Reply) -> dict[str, Any]:
    """An answer's tensors by name, from JSON or the bytes behind it."""
    at = len(reply.body) if reply.header_length is None else reply.header_length
    found = {}
    for output in json.loads(reply.body[:at])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = np.array(output["data"], np.float32)
        else:
            found[output["name"]] = np.frombuffer(reply.body[at : at + size], np.float32)
            at += size
        assert found[output["name"]].size == math.prod(output["shape"]), "shape and data differ"
    return found


def message(rows: Any, *, model: str = MODEL, missing: int = 0) -> bytes:
    from tritonclient.grpc import service_pb2 as messages

    request = messages.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes()[: rows.nbytes - missing])
    return bytes(request.SerializeToString())


def grpc_outputs(body: bytes) -> dict[str, Any]:
    from tritonclient.grpc import service_pb2 as messages

    answer = messages.ModelInferResponse.FromString(body)
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: np.frombuffer(contents, np.float32) for output, contents in pairs}
