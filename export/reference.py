"""The network in other arithmetic: float64 as the reference, a shorter type as the measure of what it costs."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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
        return value.to(kind).to(value.dtype) if isinstance(value, torch.Tensor) else value

    result.register_forward_pre_hook(lambda _, arguments: tuple(map(shorten, arguments)))
    for part in result.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _, __, output: shorten(output))
    return result


@torch.inference_mode()
def run(
    module: nn.Module, inputs: NDArray[np.floating], batch: int, progress: Progress = QUIET
) -> NDArray[np.float64]:
    """A network's logits as float64, computed in the type of ``inputs``.

    Args:
        module: takes what ``inputs`` holds.
        inputs: [N, C, H, W].
        batch: samples at a time.
        progress: is told of each batch.

    Returns:
        [N, classes].
    """
    parts = []
    for start in range(0, len(inputs), batch):
        parts.append(module(torch.from_numpy(inputs[start : start + batch])))
        progress.advance()
    logits: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return logits
