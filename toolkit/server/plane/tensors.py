"""From a request's tensors to what the batcher takes, and from its answers to the response's tensors."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from engines.errors import InputError
from engines.tensors import Array
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import InferRequest, RequestedOutput, TensorMetadata


def feeds_of(request: InferRequest, inputs: Sequence[TensorMetadata]) -> tuple[dict[str, Array], int]:
    """The request's arrays by input, and how many samples they have.

    Args:
        request: whose tensors have the shapes that they say.
        inputs: the model's; the first dimension of each is the batch.

    Raises:
        InputError: a tensor is missing, unknown, given twice, of another type or shape, or without samples.
    """
    given = {tensor.name: tensor for tensor in request.inputs}
    if len(given) != len(request.inputs):
        raise InputError("an input is given twice", f"inputs are {', '.join(map(said, inputs))}")
    feeds: dict[str, Array] = {}
    count = 0
    for want in inputs:
        tensor = given.pop(want.name, None)
        if tensor is None:
            raise InputError(f"no value for input {want.name}", f"inputs are {', '.join(map(said, inputs))}")
        if tensor.datatype != want.datatype:
            raise InputError(f"input {want.name} is {tensor.datatype}, not {want.datatype}", f"give {said(want)}")
        shape = tensor.data.shape
        if len(shape) != len(want.shape) or shape[1:] != want.shape[1:] or not shape[0]:
            raise InputError(
                f"input {want.name} has shape {list(shape)}",
                f"give {said(want)}, where -1 is the number of samples, 1 or more",
            )
        if feeds and shape[0] != count:
            raise InputError(
                f"input {want.name} has {shape[0]} samples, input {inputs[0].name} {count}",
                "give every input the same samples",
            )
        count = shape[0]
        feeds[want.name] = tensor.data
    if given:
        raise InputError(
            f"unknown input {', '.join(map(short, sorted(given)))}", f"inputs are {', '.join(map(said, inputs))}"
        )
    return feeds, count


def cut(feeds: Mapping[str, Array], count: int, most: int) -> Iterator[dict[str, Array]]:
    """Views of the samples, ``most`` at a time."""
    for at in range(0, count, most):
        yield {name: array[at : at + most] for name, array in feeds.items()}


def join(results: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """The answers to what was cut, as one."""
    if len(results) == 1:
        return results[0]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def wanted(request: InferRequest, outputs: Sequence[TensorMetadata]) -> tuple[RequestedOutput, ...]:
    """Which outputs are asked for.

    Raises:
        InputError: one is unknown, or asked for twice.
    """
    if not request.outputs:
        return tuple(RequestedOutput(one.name, request.binary_default) for one in outputs)
    names = {one.name for one in outputs}
    asked = [one.name for one in request.outputs]
    if unknown := sorted(set(asked) - names):
        raise InputError(
            f"unknown output {', '.join(map(short, unknown))}", f"outputs are {', '.join(map(said, outputs))}"
        )
    if len(set(asked)) != len(asked):
        raise InputError("an output is asked for twice", "ask for each once")
    return request.outputs


def said(tensor: TensorMetadata) -> str:
    """A tensor in words: "input FP32 [-1, 3, 224, 224]"."""
    return f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"
