"""Weights to begin with."""

import torch
from torch import nn

from export.models.alexnet import initialise_kaiming
from export.models.registry import build
from export.recipe import Recipe


def initialised(name: str, classes: int, channels: int, recipe: Recipe) -> nn.Module:
    """A network of the registry with weights drawn from the recipe's seed; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = build(name, classes, channels)
        if recipe.initialisation == "kaiming":
            initialise_kaiming(module)
        return module
