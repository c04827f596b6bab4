"""Requests and answers of the gRPC form: the protocol's protobuf messages, as ``tritonclient`` has them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from engines.errors import InputError
from engines.optional import require
from engines.tensors import Array
from toolkit.server.protocol import binary, describe, parameters
from toolkit.server.protocol.datatypes import DType, numpy_type
from toolkit.server.protocol.limits import MAX_TENSORS, Limits, short
from toolkit.server.protocol.messages import InferRequest, InferResponse, ModelMetadata, Parameters, Tensor

# By the protocol's type: the field of ``InferTensorContents``, and the type in which numpy reads it.
_CONTENTS = {
    "BOOL": ("bool_contents", "bool"),
    "INT8": ("int_contents", "int32"),
    "INT16": ("int_contents", "int32"),
    "INT32": ("int_contents", "int32"),
    "INT64": ("int64_contents", "int64"),
    "UINT8": ("uint_contents", "uint32"),
    "UINT16": ("uint_contents", "uint32"),
    "UINT32": ("uint_contents", "uint32"),
    "UINT64": ("uint64_contents", "uint64"),
    "FP32": ("fp32_contents", "float32"),
    "FP64": ("fp64_contents", "float64"),
    "BYTES": ("bytes_contents", "object"),
}


@cache
def messages() -> ModuleType:
    """The generated messages: ``tritonclient.grpc.service_pb2``.

    Raises:
        MissingLibraryError: tritonclient isn't installed.
    """
    return require("tritonclient.grpc.service_pb2", "Serving over gRPC", "serve")


def decode(message: Any, limits: Limits) -> InferRequest:
    """Read a ``ModelInferRequest``: tensors from ``raw_input_contents``, or from each input's typed ``contents``.

    Raises:
        InputError: its data don't fit its shapes and types, or it asks for what the server hasn't.
        TooLargeError: the data, or a tensor, are larger than the server takes.
        MissingLibraryError: a tensor is BF16 and ``ml_dtypes`` isn't installed.
    """
    asked = (
        parameters.of_request(_read(message.parameters, "the request")) if message.parameters else parameters.NOTHING
    )
    for given, word in ((message.inputs, "inputs"), (message.outputs, "outputs")):
        if len(given) > MAX_TENSORS:
            raise InputError(f"the request has {len(given)} {word}", f"the server takes at most {MAX_TENSORS}")
    outputs = tuple(
        parameters.of_output(one.name, _read(one.parameters, "output", one.name), binary_default=True)
        for one in message.outputs
    )
    _once("an output", [one.name for one in outputs])
    return InferRequest(
        message.model_name,
        _inputs(message.inputs, list(message.raw_input_contents), limits),
        message.model_version,
        message.id,
        outputs,
        True,
        asked.timeout,
        asked.priority,
        asked.parameters,
    )


def encode(response: InferResponse) -> Any:
    """The ``ModelInferResponse``; outputs are in ``raw_output_contents``."""
    message = messages().ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    _write(message.parameters, response.parameters)
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        _write(output.parameters, tensor.parameters)
        message.raw_output_contents.append(bytes(binary.write(tensor.data)))
    return message


def server() -> Any:
    """The ``ServerMetadataResponse``."""
    return messages().ServerMetadataResponse(**describe.server())


def model(metadata: ModelMetadata) -> Any:
    """The ``ModelMetadataResponse``."""
    return messages().ModelMetadataResponse(**describe.model(metadata))


def config(metadata: ModelMetadata) -> Any:
    """The ``ModelConfigResponse``; see :func:`toolkit.server.protocol.describe.config`."""
    return _filled(messages().ModelConfigResponse(), {"config": describe.config(metadata)})


def statistics(stats: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str] | None = None) -> Any:
    """The ``ModelStatisticsResponse``; see :func:`toolkit.server.protocol.describe.statistics`."""
    return _filled(messages().ModelStatisticsResponse(), describe.statistics(stats, versions))


def index(states: Iterable[describe.State]) -> Any:
    """The ``RepositoryIndexResponse``."""
    return messages().RepositoryIndexResponse(models=describe.index(states))


def _filled(message: Any, value: dict[str, Any]) -> Any:
    return require("google.protobuf.json_format", "Serving over gRPC", "serve").ParseDict(
        value, message, ignore_unknown_fields=True
    )


def _inputs(inputs: Sequence[Any], raw: list[bytes], limits: Limits) -> tuple[Tensor, ...]:
    if not inputs:
        raise InputError("the request has no inputs", "give at least one")
    limits.check_body(sum(map(len, raw)))
    _once("an input", [one.name for one in inputs])
    if raw and len(raw) != len(inputs):
        raise InputError(
            f"the request has {len(inputs)} inputs and {len(raw)} raw_input_contents",
            "give the data of every input there, or those of none",
        )
    tensors = []
    for number, one in enumerate(inputs):
        name, datatype, shape = one.name, one.datatype, tuple(one.shape)
        dtype, count = numpy_type(datatype), limits.count(name, shape)
        rest = parameters.NO_PARAMETERS
        if one.parameters:
            rest = parameters.of_input(name, _read(one.parameters, "input", name))[1]
        if not raw:
            array = _typed(name, datatype, dtype, count, one.contents).reshape(shape)
        elif one.HasField("contents"):
            raise InputError(f"input {short(name)} has its data typed and raw", "send them once")
        else:
            array = binary.read(name, dtype, shape, count, raw[number])
        tensors.append(Tensor(name, datatype, array, rest))
    return tuple(tensors)


def _typed(name: str, datatype: str, dtype: DType, count: int, contents: Any) -> Array:
    """The array of a tensor's typed contents."""
    if datatype not in _CONTENTS:
        raise InputError(f"{datatype} has no typed contents, and input {short(name)} is of it", "send it raw")
    field, wide = _CONTENTS[datatype]
    extra = [one.name for one, _ in contents.ListFields() if one.name != field]
    if extra:
        raise InputError(f"input {short(name)} of {datatype} has {extra[0]}", f"give its data as {field}")
    values = getattr(contents, field)
    if len(values) != count:
        raise InputError(
            f"input {short(name)} has {len(values)} values in {field}, and its shape needs {count}",
            "give as many values as the shape has elements",
        )
    array = np.fromiter(values, np.dtype(wide), count)
    if dtype.kind in "iu" and count:
        bounds = np.iinfo(dtype)
        for value in (int(array.min()), int(array.max())):
            if not bounds.min <= value <= bounds.max:
                raise InputError(
                    f"the data of input {short(name)} hold {value}",
                    f"{datatype} reaches to {bounds.min}..{bounds.max}",
                )
    return array.astype(dtype, copy=False)


def _once(where: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where} {short(name)} comes twice", "name each once")
        seen.add(name)


def _read(given: Any, where: str, name: str = "") -> Parameters:
    """A map of ``InferParameter`` as plain values."""
    plain = {}
    for key, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            of = f"{where} {short(name)}" if name else where
            raise InputError(f"parameter {short(key)} of {of} has no value", "give one, or leave it out")
        plain[key] = getattr(value, choice)
    return plain


def _write(target: Any, given: Parameters) -> None:
    for key, value in given.items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            target[key].int64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        else:
            target[key].string_param = value
