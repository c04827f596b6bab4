"""Small networks with everything that an INT8 graph rounds, and the digits they see."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export.recipe import Recipe
from export.training import TrainingData
from toolkit.data import Dataset, Split, open_dataset, pixel_batches

PREPROCESS = Preprocess(16, 16, channels=1, mean=(0.5,), std=(0.3,))
METADATA = ModelMetadata("branches", tuple("0123456789"), PREPROCESS)
RECIPE = Recipe(epochs=2, batch_size=32, learning_rate=3e-3, dropout=None, precision="fp32", seed=3)


class Block(nn.Module):
    """A residual block as ResNet has it, with a projection where its shape changes."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        changes = stride != 1 or entering != leaving
        project = nn.Conv2d(entering, leaving, 1, stride, bias=False)
        self.downsample = nn.Sequential(project, nn.BatchNorm2d(leaving)) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class PreActivation(nn.Module):
    """A residual block whose input is also read as it is, by a normalisation that can't be folded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(torch.relu(self.bn(x)))


class Branches(nn.Module):
    """A stem with a pool, residual blocks of three kinds, a concatenation, a pool branch, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.same, self.down, self.pre = Block(8, 8, 1), Block(8, 16, 2), PreActivation(16)
        self.left = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 8, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pre(self.down(self.same(self.stem(x))))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(self.pool(torch.relu(self.depthwise(x))))


def network() -> Branches:
    """Seeded, with normalisations as if they had seen data, of either sign."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Branches().eval()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean, -0.3, 0.3)
                nn.init.uniform_(norm.running_var, 0.3, 2.0)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                norm.weight.data[::3] *= -1
                nn.init.uniform_(norm.bias, -0.3, 0.3)
    return module


def few(images: int = 128) -> Dataset:
    """Some of the digits."""
    digits = open_dataset("digits")

    def part(split: Split) -> Split:
        return replace(split, images=split.images[:images], labels=split.labels[:images])

    return replace(digits, train=part(digits.train), test=part(digits.test))


def data_of(dataset: Dataset) -> TrainingData:
    """What the training loop takes."""
    size = len(dataset.train)
    return TrainingData(
        train=lambda _, rng: pixel_batches(
            dataset.train, PREPROCESS, RECIPE.batch_size, indices=rng.permutation(size).astype(np.int64)
        ),
        test=lambda: pixel_batches(dataset.test, PREPROCESS, 64),
        train_size=size,
        test_size=len(dataset.test),
    )


def pictures(dataset: Dataset) -> Any:
    """The test images as the network takes them: float32 [N, 1, 16, 16]."""
    return np.concatenate([PREPROCESS.normalise(pixels) for pixels, _ in pixel_batches(dataset.test, PREPROCESS, 64)])
