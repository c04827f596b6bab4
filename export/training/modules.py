"""A network while it trains: which of its layers do, how much they drop, and what a compiler makes of it."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engines.errors import UnsupportedError
from engines.preprocess import Preprocess
from export.training.transfer import head_of

Forward = Callable[[torch.Tensor], torch.Tensor | tuple[torch.Tensor, ...]]


@contextlib.contextmanager
def frozen_to_head(module: nn.Module, freeze: bool, preprocess: Preprocess) -> Iterator[None]:
    """Let only the head's parameters ask for gradients for the while.

    Raises:
        CheckpointError: the network has no layer with weights, or doesn't take such pictures.
    """
    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()] if freeze else []
    trained = {id(parameter) for parameter in head_of(module, shape).parameters()} if freeze else set()
    for parameter, _ in before:
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


def to_train(module: nn.Module, freeze: bool) -> bool:
    """Set the module to training; with ``freeze`` its batch norms stay as in use.

    Returns:
        Whether a batch norm takes its statistics from the batch, which needs two images.
    """
    module.train()
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    for norm in norms if freeze else ():
        norm.eval()
    return any(norm.training for norm in norms)


@contextlib.contextmanager
def dropping(module: nn.Module, share: float | None) -> Iterator[None]:
    """Let the module's dropout layers drop ``share`` for the while."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout) and share is not None]
    usual = [layer.p for layer in layers]
    for layer in layers:
        layer.p = share or 0.0
    try:
        yield
    finally:
        for layer, p in zip(layers, usual, strict=True):
            layer.p = p


def compiled(module: nn.Module) -> nn.Module:
    """What ``torch.compile`` makes of the module, sharing its weights.

    Whole or not at all: what can't be compiled is an error, not left to the interpreter. Every shape is compiled by
    itself: code for any shape would be made when a second one comes, so that a resumed training ran other code.
    """
    made: nn.Module = torch.compile(module, fullgraph=True, dynamic=False)  # type: ignore[assignment]
    return made


@contextlib.contextmanager
def compiler_errors(compiles: bool) -> Iterator[None]:
    """Turn an error of the compiler, which it raises at a step, into ours."""
    try:
        yield
    except Exception as error:
        where = type(error).__module__
        if not compiles or not where.startswith(("torch._dynamo", "torch._inductor", "torch._functorch", "triton")):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UnsupportedError(
            f"torch.compile can't compile the network: {reason}",
            "train without --compile; on a CPU it needs a C++ compiler",
        ) from error
