"""Networks of the registry as the tests of the families take them: small pictures, set batch normalisations."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export.models.registry import build, preprocess_for

CLASSES = 10

WIDE, NARROW = 4096, 64
"""What hidden linear layers have, and what they get here: no other operator, a twentieth of the weights."""


def pixels(name: str) -> int:
    """The side of the smallest picture that a network takes, but the network's own where that is the only one."""
    if name.startswith(("vgg", "googlenet", "resnet")):
        return 32
    return 64 if name == "alexnet" else preprocess_for(name).height


def described(name: str, size: int | None = None) -> ModelMetadata:
    """The metadata of a network for small pictures."""
    side = size or pixels(name)
    preprocess = replace(preprocess_for(name), height=side, width=side)
    return ModelMetadata(name, tuple(map(str, range(CLASSES))), preprocess)


def pictures(preprocess: Preprocess, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured patches with noise, uint8 [count, height, width, channels]: they differ as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, preprocess.channels))
    rows, columns = (np.arange(size) * 4 // size for size in (preprocess.height, preprocess.width))
    patches = coarse[:, rows][:, :, columns]
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)


def settled(name: str, size: int | None = None) -> nn.Module:
    """A network with random weights, narrow hidden linear layers, and batch normalisations that have seen pictures.

    γ and β are drawn, since a residual block that starts with γ = 0 would leave its convolutions out; means and
    variances are those of :func:`pictures`. Without them the signal of a deep network explodes or vanishes.
    """
    torch.manual_seed(0)
    module = narrowed(build(name, CLASSES))
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None  # the plain average over all batches
    if norms:
        preprocess = described(name, size).preprocess
        images = torch.from_numpy(preprocess.normalise(pictures(preprocess, 16, seed=1)))
        with torch.no_grad():
            for batch in images.split(8):
                module.train()(batch)
    return module.eval().requires_grad_(False)


def narrowed(module: nn.Module) -> nn.Module:
    """The same network with narrow hidden linear layers."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and WIDE in {child.in_features, child.out_features}:
                sizes = (NARROW if size == WIDE else size for size in (child.in_features, child.out_features))
                setattr(parent, name, nn.Linear(*sizes))
    return module.eval()
