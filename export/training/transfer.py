"""Fine-tuning: a network takes over the weights of another one, whose head may know other classes."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from engines.errors import CheckpointError


@dataclass(frozen=True)
class Transfer:
    """What became of a network's tensors.

    Attributes:
        taken: the names of those whose values are the other network's.
        left: the names of those that stay as they were initialised.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]


def take_over(module: nn.Module, state: Mapping[str, torch.Tensor], *, anew: Collection[str] = ()) -> Transfer:
    """Copy into ``module`` every tensor of ``state`` that it has by the same name and shape.

    Args:
        module: changed in place.
        state: weights of a network of the same architecture, by the names that ``module`` uses.
        anew: modules of ``module``, by name, that keep their own weights: the head (see :func:`heads`), where the
            classes are others.

    Raises:
        CheckpointError: there is nothing to take over.
    """
    own = module.state_dict()
    taken = [
        name
        for name, tensor in own.items()
        if name in state and state[name].shape == tensor.shape and name.rpartition(".")[0] not in anew
    ]
    # Counters of batches are in every network with batch norm: they alone make no two networks alike.
    if not any(own[name].ndim for name in taken):
        raise CheckpointError(
            f"none of the {len(own)} tensors of the network is in the checkpoint by that name and shape",
            "give a checkpoint of the same architecture",
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(state[name])
    return Transfer(tuple(taken), tuple(name for name in own if name not in set(taken)))


def heads(module: nn.Module, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the layers that give the logits: the main head, then the auxiliary ones that run in training.

    The head is the layer whose output the logits are. Where something follows that only changes its shape (pooling,
    flattening), it is the layer with weights that ran last. Where a layer is defined doesn't matter.

    Args:
        module: stays as it is; a copy without memory is run.
        shape: of an input, batch included; a batch of 2 or more.

    Raises:
        CheckpointError: the network has no layer with weights, or doesn't take that input.
    """
    empty = _without_memory(module).train()
    ran: list[tuple[str, torch.Tensor]] = []

    def note(name: str) -> object:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                ran.append((name, output))

        return hook

    for name, layer in empty.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_hook(note(name))
    with torch.no_grad():
        try:
            outputs = empty(torch.empty(shape, device="meta"))
        except Exception as error:  # a foreign module's forward may raise anything
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"the head can't be found: the network doesn't run: {reason}", "give another --input-size"
            ) from error
    if not ran:
        raise CheckpointError("the network has no layer with weights", "give a network that can learn")
    wanted = outputs if isinstance(outputs, tuple) else (outputs,)
    direct = [next((name for name, output in ran if output is one), None) for one in wanted]
    main = direct[0] or next((name for name, _ in reversed(ran) if name not in direct), ran[-1][0])
    return tuple(dict.fromkeys([main, *(name for name in direct[1:] if name)]))


def head_of(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The layer that gives the logits, the first of :func:`heads`, whose arguments and errors it has."""
    return module.get_submodule(heads(module, shape)[0])


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy on the meta device, which at no time takes the memory of a second network."""
    memo: dict[int, object] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    return copy.deepcopy(module, memo)
