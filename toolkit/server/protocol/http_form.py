"""Requests and answers of the HTTP form: JSON, with binary tensor data after it."""

from dataclasses import dataclass
from math import prod
from typing import Any

from engines.errors import InputError
from toolkit.server.protocol import binary, json_text, json_values, parameters
from toolkit.server.protocol.datatypes import numpy_type
from toolkit.server.protocol.limits import MAX_TENSORS, Limits, short
from toolkit.server.protocol.messages import InferRequest, InferResponse, ModelMetadata, RequestedOutput, Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how many bytes of a body are its JSON."""

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()

DIGITS = 18
"""Digits of a length at most: those of a number that fits into 64 bits."""

dump = json_text.dump
load = json_text.load


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body.

    Attributes:
        parts: the bytes in turn; views among them keep their arrays alive.
        header_length: bytes of JSON before the binary data, for the header :data:`HEADER_LENGTH`; None where all of
            it is JSON.
    """

    parts: list[bytes | memoryview]
    header_length: int | None = None

    @property
    def length(self) -> int:
        """Bytes in all."""
        return sum(map(len, self.parts))

    @property
    def content_type(self) -> str:
        """For the header ``Content-Type``."""
        return "application/json" if self.header_length is None else "application/octet-stream"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI takes them: content type, content length and the JSON's length where there is one."""
        given = [(b"content-type", self.content_type.encode()), (b"content-length", b"%d" % self.length)]
        if self.header_length is not None:
            given.append((_HEADER_LENGTH, b"%d" % self.header_length))
        return given


def decode(
    model: str,
    version: str,
    body: bytes | bytearray | memoryview,
    header_length: str | None,
    limits: Limits,
    metadata: ModelMetadata | None = None,
) -> InferRequest:
    """Read the body of ``POST /v2/models/{model}[/versions/{version}]/infer``.

    Args:
        model: from the path.
        version: from the path; "" for none.
        body: decompressed; the tensors are views of it.
        header_length: the header :data:`HEADER_LENGTH` as it came; None for none. "0" means that there is no JSON:
            the body is the only input's data, and the answer comes as binary data.
        limits: what the server takes.
        metadata: the model's; needed only for a body without JSON.

    Raises:
        InputError: it isn't valid JSON, isn't a request, or its data don't fit its shapes and types.
        TooLargeError: the body, or a tensor, is larger than the server takes.
        MissingLibraryError: a tensor is BF16 and ``ml_dtypes`` isn't installed.
    """
    limits.check_body(len(body))
    view = memoryview(body)
    if header_length is None:
        message, data = json_text.load(view, limits), view[len(view) :]
    else:
        length = _length(header_length, len(view))
        if not length:
            return _raw(model, version, view, limits, metadata)
        message, data = json_text.load(view[:length], limits), view[length:]
    given = message.get("parameters")
    asked = parameters.of_request(parameters.checked(given, "the request")) if given else parameters.NOTHING
    inputs = _inputs(_entries(message, "inputs"), data, limits)
    return InferRequest(
        model,
        inputs,
        version,
        "" if message.get("id") is None else _text(message["id"], "the request's id"),
        _outputs(_entries(message, "outputs"), binary_default=asked.binary_default),
        asked.binary_default,
        asked.timeout,
        asked.priority,
        asked.parameters,
    )


def encode(response: InferResponse, request: InferRequest) -> Encoded:
    """Write the answer to a request: each output as JSON or as bytes, as was asked.

    Raises:
        UnsupportedError: an output that is to be JSON holds what JSON can't: NaN, infinity, bytes that aren't UTF-8.
    """
    wanted = {output.name: output.binary for output in request.outputs}
    outputs, parts = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.data.shape)}
        extra = dict(tensor.parameters)
        if wanted.get(tensor.name, request.binary_default):
            part = binary.write(tensor.data)
            parts.append(part)
            extra["binary_data_size"] = len(part)
        else:
            entry["data"] = json_values.write(tensor.name, tensor.data)
        if extra:
            entry["parameters"] = extra
        outputs.append(entry)
    message: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        message["id"] = response.id
    if response.parameters:
        message["parameters"] = dict(response.parameters)
    message["outputs"] = outputs
    text = json_text.dump(message)
    return Encoded([text, *parts], len(text) if parts else None)


def _length(header: str, size: int) -> int:
    """The JSON's length in a body of this size."""
    word = header.strip()
    if not (word.isascii() and word.isdigit() and len(word) <= DIGITS):
        raise InputError(f"the header {HEADER_LENGTH} is {short(header)}", "give the number of bytes of the JSON")
    if int(word) > size:
        raise InputError(
            f"the header {HEADER_LENGTH} says {int(word)}, and the body has {size} bytes",
            "give the number of bytes of the JSON, and send the whole body",
        )
    return int(word)


def _entries(message: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list of the request."""
    entries = message.get(key)
    if entries is None:
        return []
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise InputError(f'"{key}" is no list of objects', f'give "{key}" as [{{"name": ...}}, ...]')
    if len(entries) > MAX_TENSORS:
        raise InputError(f"the request has {len(entries)} {key}", f"the server takes at most {MAX_TENSORS}")
    return entries


def _text(value: object, where: str) -> str:
    if type(value) is not str:
        raise InputError(f"{where} is no string", "give a string")
    return value


def _name(entry: dict[str, Any], where: str, seen: set[str]) -> str:
    name = _text(entry.get("name"), f"the name of {where}")
    if name in seen:
        raise InputError(f"{where} {short(name)} comes twice", "name each once")
    seen.add(name)
    return name


def _inputs(entries: list[dict[str, Any]], data: memoryview, limits: Limits) -> tuple[Tensor, ...]:
    """The tensors, each with its share of the binary data."""
    if not entries:
        raise InputError("the request has no inputs", 'give "inputs" as [{"name": ..., "datatype": ..., ...}]')
    tensors, at, seen = [], 0, set[str]()
    for entry in entries:
        name = _name(entry, "an input", seen)
        datatype = entry.get("datatype")
        dtype = numpy_type(datatype)
        shape = entry.get("shape")
        if type(shape) is not list:
            raise InputError(f"input {short(name)} has no shape", 'give "shape" as a list of whole numbers')
        count = limits.count(name, shape)
        size, rest = None, parameters.NO_PARAMETERS
        if given := entry.get("parameters"):
            size, rest = parameters.of_input(name, parameters.checked(given, "input", name))
        if size is None:
            array = json_values.read(name, dtype, tuple(shape), count, entry.get("data"))
        elif entry.get("data") is not None:
            raise InputError(f"input {short(name)} has its data as JSON and as binary data", "send them once")
        elif size > len(data) - at:
            raise InputError(
                f"input {short(name)} is said to have {size} bytes of binary data, and {len(data) - at} are there",
                f"send the whole body, and the header {HEADER_LENGTH}",
            )
        else:
            array = binary.read(name, dtype, tuple(shape), count, data[at : at + size])
            at += size
        tensors.append(Tensor(name, str(datatype), array, rest))
    if at != len(data):
        raise InputError(
            f"the body has {len(data) - at} bytes of binary data that are no input's",
            'give each input\'s size as its parameter "binary_data_size"',
        )
    return tuple(tensors)


def _outputs(entries: list[dict[str, Any]], *, binary_default: bool) -> tuple[RequestedOutput, ...]:
    seen: set[str] = set()
    outputs = []
    for entry in entries:
        name = _name(entry, "an output", seen)
        given = entry.get("parameters") or {}
        given = parameters.checked(given, "output", name)
        outputs.append(parameters.of_output(name, given, binary_default=binary_default))
    return tuple(outputs)


def _raw(model: str, version: str, data: memoryview, limits: Limits, metadata: ModelMetadata | None) -> InferRequest:
    """A body that is nothing but the data of the only input; its one varying dimension follows from its size."""
    if metadata is None or len(metadata.inputs) != 1:
        raise InputError(
            "a body without JSON is for a model with one input",
            f"send a JSON request, and its length in the header {HEADER_LENGTH}",
        )
    only = metadata.inputs[0]
    dtype, open_ = numpy_type(only.datatype), only.shape.count(-1)
    if dtype.hasobject or open_ > 1:
        raise InputError(
            f"a body without JSON doesn't say the shape of input {short(only.name)}",
            f"send a JSON request, and its length in the header {HEADER_LENGTH}",
        )
    row = prod(size for size in only.shape if size != -1) * dtype.itemsize
    shape = tuple(len(data) // row if size == -1 and row else max(size, 0) for size in only.shape)
    array = binary.read(only.name, dtype, shape, limits.count(only.name, shape), data)
    return InferRequest(model, (Tensor(only.name, only.datatype, array),), version, binary_default=True)
