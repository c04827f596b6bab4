"""A small network, entered into the registry by its import string: what a new architecture takes, and quick tests."""

import torch
from torch import nn

from engines.preprocess import Preprocess
from export.models.registry import ArchitectureSpec

SIZE = 16


class TinyNet(nn.Module):
    """float32 [batch, channels, 16, 16] -> logits [batch, classes]."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8 * 4 * 4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.features(x).flatten(1)))
        return logits


SPEC = ArchitectureSpec(
    "tiny", "tests.export.tiny_net:TinyNet", Preprocess(SIZE, SIZE, mean=(0.5,) * 3, std=(0.25,) * 3), "for tests"
)
