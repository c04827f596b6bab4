"""The exponential moving average of a network's weights (Polyak averaging with forgetting)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from export.state_dicts import State
from export.training.distributed import Group, total


class Averaged:
    """A moving average of weights and floating-point buffers: ``average += (1 - decay) * (now - average)``.

    As an average should not remember the first weights for long, the decay of step ``t`` (from 1) is at most
    ``(1 + t) / (10 + t)``, as in TensorFlow's ExponentialMovingAverage.

    Attributes:
        state: the averages, by the keys of the module's state dict.
        steps: how many steps are in them.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: State = {key: value.detach().clone() for key, value in module.state_dict().items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[torch.Tensor | nn.Parameter] = []
        current: list[torch.Tensor | nn.Parameter] = []
        for key, now in module.state_dict().items():
            if now.is_floating_point():
                averages.append(self.state[key])
                current.append(now)
            else:
                self.state[key].copy_(now)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(averages, current, self.steps)

    def restore(self, state: State, steps: int) -> None:
        """Go on with averages that were kept."""
        for key, average in self.state.items():
            average.copy_(state[key])
        self.steps = steps

    def settle(self, module: nn.Module, group: Group) -> None:
        """Bring averaged buffers together that processes saw different images for."""
        if group.world == 1:
            return
        for key, _ in module.named_buffers():
            if key in self.state and self.state[key].is_floating_point():
                self.state[key] = total(self.state[key], group) / group.world

    @contextlib.contextmanager
    def held_by(self, module: nn.Module) -> Iterator[None]:
        """Let the module have the averages for the while."""
        own = {key: value.detach().clone() for key, value in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(own)
