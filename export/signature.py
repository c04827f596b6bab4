"""What a module takes and gives, found by running it: examples of its inputs, specs of its outputs."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from engines.answers import answers_of
from engines.errors import InputError, ToolkitError
from engines.tensors import TensorSpec

__all__ = ["BATCH", "answers_of", "check_inputs", "example", "flat", "outputs_of"]

BATCH = "batch"
"""The name of the first dimension of every tensor."""

INPUT_TYPES = ("float32", "float16", "int64", "int32", "bool", "uint8")
"""Element types that a network may take."""

_SIZES = (2, 3)


def check_inputs(specs: Sequence[TensorSpec]) -> None:
    """Refuse inputs that can't be exported with a free batch.

    Raises:
        InputError: none, a name twice, an element type not in :data:`INPUT_TYPES`, or a first dimension that isn't
            the batch, or another one without a size.
    """
    if not specs:
        raise InputError("the network takes nothing", "name its inputs, for example --input ids=128:int64")
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two inputs are called '{twice}'", "give each a name of its own")
    for spec in specs:
        if spec.dtype not in INPUT_TYPES:
            raise InputError(f"the input {spec} has a type that isn't supported", f"use {', '.join(INPUT_TYPES)}")
        if not spec.shape or spec.shape[0] != BATCH:
            raise InputError(f"the input {spec} has no batch", "its first dimension must be the batch")
        if loose := [size for size in spec.shape[1:] if not isinstance(size, int) or size < 1]:
            raise InputError(
                f"the size {loose[0]} of the input {spec} is not fixed", "give a number: only the batch is free"
            )


def example(specs: Sequence[TensorSpec], batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Values for a network's inputs: standard normal floats; integers and booleans 0 or 1, valid for any embedding.

    Args:
        specs: the inputs, batch first.
        batch: how many samples.
        seed: of the values.

    Raises:
        InputError: as :func:`check_inputs` says.
    """
    check_inputs(specs)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for spec in specs:
        shape = (batch, *(int(size) for size in spec.shape[1:]))
        kind: torch.dtype = getattr(torch, spec.dtype)
        if kind.is_floating_point:
            found.append(torch.randn(shape, generator=generator).to(kind))
        else:
            found.append(torch.randint(0, 2, shape, generator=generator).to(kind))
    return tuple(found)


def outputs_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What a module gives for ``inputs``, found by running it on two samples, and on three.

    Names are those of a mapping's keys or of the fields of a NamedTuple or dataclass, else "output" of one tensor and
    "output0", "output1" and so on of several. The first dimension is the batch of every output.

    Args:
        module: takes ``inputs`` by position, on the CPU; it is put into evaluation mode and back.
        inputs: batch first.

    Raises:
        InputError: it can't take them, answers something else than tensors, or an answer's first dimension isn't the
            batch, or another one depends on it.
    """
    check_inputs(inputs)
    two, three = (run_once(module, example(inputs, size)) for size in _SIZES)
    specs = []
    for name, value in two.items():
        shapes = [list(value.shape), list(three[name].shape)] if name in three else [list(value.shape), []]
        if [shape[:1] for shape in shapes] != [[size] for size in _SIZES]:
            raise InputError(
                f"the output {name} is {shapes[0]} for two samples and {shapes[1]} for three: its first dimension is "
                "not the batch",
                "let the module give one row a sample",
            )
        if shapes[0][1:] != shapes[1][1:]:
            raise InputError(
                f"the output {name} is {shapes[0]} for two samples and {shapes[1]} for three",
                "only the first dimension may depend on the batch",
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype == "bfloat16":
            raise InputError(f"the output {name} is bfloat16", "let the module give float32")
        specs.append(TensorSpec(name, dtype, (BATCH, *shapes[0][1:])))
    return tuple(specs)


def run_once(module: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a module answers, in evaluation mode, by name.

    Raises:
        InputError: it can't take these inputs, or answers something else than tensors.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            answer = module(*inputs)
    except (ToolkitError, MemoryError):
        raise
    except Exception as error:  # people's own forward may raise anything
        shapes = ", ".join(f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for value in inputs)
        reason = next(iter(str(error).strip().splitlines()), "")
        if not reason or not isinstance(error, RuntimeError | ValueError | TypeError | IndexError):
            reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise InputError(
            f"the network can't take {shapes}: {reason}",
            "give its inputs' sizes and types in the order of its forward",
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    return answers_of(answer)


@contextlib.contextmanager
def flat(module: nn.Module) -> Iterator[None]:
    """Within the block, ``module`` answers a tensor or a tuple of them, whatever structure it has; then as before."""
    own = vars(module).get("forward")
    original: Callable[..., Any] = module.forward

    def forward(*arguments: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        values = tuple(answers_of(original(*arguments)).values())
        return values[0] if len(values) == 1 else values

    # The exporter binds inputs by the parameters' names.
    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
