"""What tests of training share: a small network in the registry, and pictures that it learns in a moment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engines.preprocess import Preprocess
from export.models.registry import ArchitectureSpec


class Deep(nn.Module):
    """float32 [batch, channels, 16, 16] -> logits [batch, classes], with a body worth taking over."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 48), nn.ReLU()
        )
        self.head = nn.Linear(48, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x))
        return logits


DEEP = ArchitectureSpec(
    "deep", "tests.toolkit.trainings:Deep", Preprocess(16, 16, mean=(0.5,) * 3, std=(0.25,) * 3), "for tests"
)

QUICK: dict[str, Any] = {
    "architecture": "tiny",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "precision": "fp32",
    "curves": False,
}


def colours(
    path: Path, train: int = 60, test: int = 30, *, classes: Sequence[int] = (0, 1, 2), seed: int = 0
) -> Path:
    """Noisy 16x16 pictures, of each class in ``classes`` one colour (0: red, 1: green, 2: blue) brighter."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % len(classes)
        pixels = rng.integers(0, 120, (count, 16, 16, 3))
        pixels[np.arange(count), :, :, np.array(classes)[labels]] += 60
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path
