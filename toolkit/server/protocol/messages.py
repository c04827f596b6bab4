"""What is asked of a model and what it answers, whatever the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engines.errors import InputError, ToolkitError
from engines.tensors import Array

Parameters = Mapping[str, str | int | float | bool]


class UnknownModelError(InputError):
    """Nothing is served under this name or version."""


class TooLargeError(InputError):
    """A body or a tensor is larger than the server takes."""


class UnavailableError(ToolkitError):
    """The server or the model can't answer now: it starts, drains, or its last session died."""


class UnauthorisedError(ToolkitError):
    """The bearer token is missing or wrong."""


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        name: the tensor's.
        datatype: the protocol's word for its type: "UINT8", "FP32", "FP16", "BF16", "BYTES", ...
        data: of that type, C-contiguous, in its shape; for "BYTES" an object array of ``bytes``. It may be a
            read-only view of the message.
        parameters: what came with it.
    """

    name: str
    datatype: str
    data: Array
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class RequestedOutput:
    """An output that is asked for.

    Attributes:
        name: the tensor's.
        binary: whether its data is to follow the JSON as bytes; only HTTP has both ways.
        classes: answer with the likeliest classes, this many, in place of the values; 0 for the values.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request for inference.

    Attributes:
        model: its name.
        version: "" for the one that is served.
        id: the caller's word for the request, given back.
        inputs: in the order in which they came.
        outputs: which are asked for; empty for all.
        binary_default: whether outputs that ``outputs`` doesn't name are to come as bytes.
        timeout: seconds after which the answer is of no use; None for never.
        priority: as the batcher takes it: higher goes first, 0 where nothing was said.
        parameters: the others.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    binary_default: bool = False
    timeout: float | None = None
    priority: int = 0
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferResponse:
    """The answer to a request for inference.

    Attributes:
        model, version, id: of the request; the version is the one that answered.
        outputs: in the order in which they were asked for, or the engine's.
        parameters: what the server adds.
    """

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class TensorMetadata:
    """A model's tensor; -1 in ``shape`` stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is, as the protocol tells it.

    Attributes:
        name: the model's.
        versions: those that are served.
        platform: "onnxruntime_onnx", "tensorrt_plan", ...
        inputs, outputs: its tensors.
        max_batch: samples that the model runs at once.
        facts: what toolkit knows of it besides: labels, precision, backend, device, passport; JSON-ready.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    max_batch: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
