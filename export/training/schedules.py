"""The learning rate's course over a run; what depends on nothing but the share that is done is in the recipe."""

from collections.abc import Iterable

import torch

from export.recipe import Recipe
from export.training.facts import EpochFacts


def plateaus(history: Iterable[EpochFacts], recipe: Recipe) -> int:
    """How many times the test accuracy stopped improving: ``plateau_patience`` epochs without a new best.

    After that the count begins anew. Epochs that end within the warm-up don't count as bad.
    """
    best, bad, found = -1.0, 0, 0
    for facts in history:
        if facts.test_accuracy > best:
            best, bad = facts.test_accuracy, 0
        elif facts.epoch > recipe.warmup * recipe.epochs:
            bad += 1
        if bad >= recipe.plateau_patience:
            found, bad = found + 1, 0
    return found


def scale_of(history: Iterable[EpochFacts], recipe: Recipe) -> float:
    """What the schedule's learning rate is multiplied by after these epochs."""
    return recipe.plateau_factor ** plateaus(history, recipe) if recipe.schedule == "plateau" else 1.0


def adjust(optimizer: torch.optim.Optimizer, recipe: Recipe, done: float, scale: float) -> float:
    """Set learning rate and momentum for the next step.

    Args:
        optimizer: whose groups are set.
        recipe: the schedule.
        done: share of the run, 0 to 1.
        scale: see :func:`scale_of`.

    Returns:
        The learning rate.
    """
    rate, momentum = recipe.rate(done), recipe.momentum_at(done)
    rate = rate * scale if scale != 1 else rate
    for group in optimizer.param_groups:
        group["lr"] = rate
        if momentum is not None and recipe.optimizer == "sgd":
            group["momentum"] = momentum
        elif momentum is not None:
            group["betas"] = (momentum, group["betas"][1])
    return rate
