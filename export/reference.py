"""The network in other arithmetic: float64 as the reference, a shorter type as the measure of what it costs."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from engines.answers import answers_of
from engines.errors import UnsupportedError
from engines.progress import QUIET, Progress

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def exact(module: nn.Module) -> nn.Module:
    """A copy of the network that computes in float64."""
    return copy.deepcopy(module).double()


def rounded(module: nn.Module, precision: str) -> nn.Module:
    """A copy whose weights, input and layers' results are rounded to a shorter type, and whose sums are float32.

    That is what an engine in this precision computes: it stores values in the short type and adds them up in
    a longer one.

    Args:
        module: in float32.
        precision: "fp16" or "bf16".

    Raises:
        UnsupportedError: another precision.
    """
    if precision not in TYPES:
        raise UnsupportedError(f"the noise of {precision} can't be simulated", f"one of {', '.join(TYPES)} can")
    kind = TYPES[precision]
    result = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*result.parameters(), *result.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(kind).to(tensor.dtype))

    def shorten(value: object) -> object:
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(map(shorten, value))
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(kind).to(value.dtype) if isinstance(value, torch.Tensor) and floats else value

    result.register_forward_pre_hook(lambda _, arguments: tuple(map(shorten, arguments)))
    for part in result.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _, __, output: shorten(output))
    return result


def run(
    module: nn.Module, inputs: NDArray[Any] | Sequence[NDArray[Any]], batch: int, progress: Progress = QUIET
) -> NDArray[Any]:
    """The first output of a network, as :func:`run_all` gives it.

    Args:
        module: takes what ``inputs`` holds.
        inputs: [N, ...], or one such array an input.
        batch: samples at a time.
        progress: is told of each batch.
    """
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    return next(iter(run_all(module, arrays, batch, progress).values()))


@torch.inference_mode()
def run_all(
    module: nn.Module, inputs: Sequence[NDArray[Any]], batch: int, progress: Progress = QUIET
) -> dict[str, NDArray[Any]]:
    """Every output of a network, computed in the type of the floats among ``inputs``.

    In float64 what the network itself makes float32 on the way (``mask.float()``, ``torch.zeros(...)``) is float64
    too.

    Args:
        module: takes the inputs by position.
        inputs: one array [N, ...] an input.
        batch: samples at a time.
        progress: is told of each batch.

    Returns:
        By name in the module's order: float64 [N, ...], or the integers and booleans that it gives.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    doubled = next((p.dtype for p in module.parameters() if p.is_floating_point()), None) == torch.float64
    for start in range(0, len(inputs[0]), batch):
        values = (torch.from_numpy(np.ascontiguousarray(array[start : start + batch])) for array in inputs)
        with _all_double() if doubled else contextlib.nullcontext():
            answers = answers_of(module(*values))
        for name, value in answers.items():
            parts.setdefault(name, []).append(value.double() if value.is_floating_point() else value)
        progress.advance()
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


class _Double(TorchFunctionMode):
    """Turns every request for float32 within the block into one for float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.Tensor.float:
            return args[0].double()
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        if func in {torch.Tensor.to, torch.Tensor.type}:
            args = tuple(torch.float64 if item is torch.float32 else item for item in args)
        return func(*args, **named)


@contextlib.contextmanager
def _all_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)
