"""Mixup: training on mixtures of two images and of their labels.

Zhang, Cissé, Dauphin, Lopez-Paz: *mixup: Beyond Empirical Risk Minimization*, ICLR 2018: ``x = λ xᵢ + (1 - λ) xⱼ``,
``y = λ yᵢ + (1 - λ) yⱼ``, λ from Beta(α, α), one λ a batch as in the authors' code. As a batch is shuffled already,
its neighbours are mixed with each other, which keeps every pair within one process; the last of an odd number stays.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation


def partners(count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """With which image each is mixed: int64 [count]."""
    return (torch.arange(count, device=device) ^ 1).clamp_(max=count - 1)


def mixed(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Every image with its partner: ``share`` ([1], on the device) of itself, the rest of the other."""
    other = x.index_select(0, partners(len(x), x.device))
    return torch.lerp(other, x, share).contiguous(memory_format=torch.channels_last)


def mixed_loss(logits: torch.Tensor, y: torch.Tensor, share: torch.Tensor | None, smoothing: float) -> torch.Tensor:
    """Mean cross-entropy against the labels, mixed where the images are."""
    loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
    if share is None:
        return loss
    other = F.cross_entropy(logits.float(), y[partners(len(y), y.device)], label_smoothing=smoothing)
    return torch.lerp(other, loss, share[0])


def mixed_right(logits: torch.Tensor, y: torch.Tensor, share: torch.Tensor | None) -> torch.Tensor:
    """How many images are right; the answer "its partner" counts as what the partner has in the mixture."""
    answer = logits.argmax(1)
    right = (answer == y).sum()
    if share is None:
        return right
    return torch.lerp((answer == y[partners(len(y), y.device)]).sum().float(), right.float(), share[0])
