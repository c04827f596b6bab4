"""Modules that PyTorch's exporter writes badly, computed in a way that it writes well, while it traces.

1. ``LocalResponseNorm`` of [N, C, H, W] with an odd window becomes ONNX's own ``LRN``. Both divide α by the
   window's size, and their windows are the same; with an even size the windows differ by one channel, so it
   stays.
2. ``AdaptiveAvgPool2d`` on a known size becomes, axis by axis,
   a. nothing where the size is right already;
   b. an average pool with a fixed kernel and stride where all its windows are of one size, equally spaced;
   c. a nearest-neighbour resize where the output is a whole multiple of the input (each window holds one value);
   d. else a product with a constant matrix that holds each window's weights.
   Without this the exporter writes Transpose, GatherND and ReduceMean for b's overlapping windows, c and d.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def exportable(module: nn.Module) -> Iterator[None]:
    """Within the block, ``module``'s parts compute by the rules above; afterwards as before."""
    patched = []
    try:
        for part in module.modules():
            replacement = _replacement(part)
            if replacement is not None and "forward" not in vars(part):
                part.forward = replacement  # shadows the class's method on this instance only
                patched.append(part)
        yield
    finally:
        for part in patched:
            del part.forward


def _replacement(part: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    if type(part) is nn.LocalResponseNorm and part.size % 2 == 1:
        return lambda x: _lrn(part, x)
    if type(part) is nn.AdaptiveAvgPool2d:
        return lambda x: _pool(part, x)
    return None


def _lrn(part: nn.LocalResponseNorm, x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 4:  # ONNX Runtime's LRN takes pictures only
        return nn.LocalResponseNorm.forward(part, x)
    attributes: dict[str, Any] = {
        "size": part.size,
        "alpha": float(part.alpha),
        "beta": float(part.beta),
        "bias": float(part.k),
    }
    return torch.onnx.ops.symbolic("LRN", [x], attributes, dtype=x.dtype, shape=x.shape, version=13)


def _pool(part: nn.AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    result = adaptive_average_pool(x, part.output_size)
    # Where nothing is to do the exporter would credit what follows to the wrong module: give it a node of
    # this one, which is dropped afterwards.
    return torch.onnx.ops.symbolic("Identity", [x], dtype=x.dtype, shape=x.shape) if result is x else result


def adaptive_average_pool(x: torch.Tensor, output_size: int | tuple[int | None, ...] | None) -> torch.Tensor:
    """``torch.nn.functional.adaptive_avg_pool2d`` for a known size, by rule 2.

    Args:
        x: float [N, C, H, W] or [C, H, W] with fixed H and W.
        output_size: as the module has it: one number, or a number (None: keep) an axis.
    """
    wanted = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    sizes = [int(size) for size in x.shape[-2:]]
    targets = [size if want is None else int(want) for size, want in zip(sizes, wanted, strict=True)]
    plans = [_windows(size, target) for size, target in zip(sizes, targets, strict=True)]
    steps = [_regular(windows) for windows in plans]
    if any(step is not None and step != (1, 1) for step in steps):
        kernel, stride = zip(*(step or (1, 1) for step in steps), strict=True)
        x = nn.functional.avg_pool2d(x, kernel, stride)
    repeats = [
        target // size if step is None and target % size == 0 else 1
        for step, size, target in zip(steps, sizes, targets, strict=True)
    ]
    if repeats != [1, 1]:
        x = nn.functional.interpolate(x, scale_factor=tuple(map(float, repeats)), mode="nearest")
    for axis, (step, repeat) in enumerate(zip(steps, repeats, strict=True)):
        if step is None and repeat == 1:
            weights = _matrix(plans[axis], sizes[axis], x)
            x = torch.matmul(weights, x) if axis == 0 else torch.matmul(x, weights.T)
    return x


def _windows(size: int, target: int) -> list[tuple[int, int]]:
    """First and last-plus-one index of each window, as PyTorch defines them: floor and ceil of i·size/target."""
    return [(i * size // target, -(-(i + 1) * size // target)) for i in range(target)]


def _regular(windows: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Kernel and stride where the windows are of one size, equally spaced and more than zero apart."""
    kernel = windows[0][1] - windows[0][0]
    stride = windows[1][0] - windows[0][0] if len(windows) > 1 else kernel
    fits = stride > 0 and all(
        window == (index * stride, index * stride + kernel) for index, window in enumerate(windows)
    )
    return (kernel, stride) if fits else None


def _matrix(windows: list[tuple[int, int]], size: int, like: torch.Tensor) -> torch.Tensor:
    weights = [[1 / (end - start) if start <= i < end else 0.0 for i in range(size)] for start, end in windows]
    return torch.tensor(weights, dtype=like.dtype, device=like.device)
