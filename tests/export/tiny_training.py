"""Trainings of a second: noisy pictures of three classes, tiny networks, a recipe, and a training stopped midway."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.evaluation import Batch
from export.recipe import Recipe
from export.resume import load_state, resume_path, save_state
from export.training import EpochFacts, TrainingData, TrainingInterrupted, TrainingState, train
from tests.export.tiny_net import SPEC, TinyNet

PREPROCESS = SPEC.preprocess
QUICK = Recipe(
    epochs=3,
    batch_size=8,
    learning_rate=5e-3,
    precision="fp32",
    log_interval=2,
    schedule="constant",
    warmup=0,
    dropout=None,
    label_smoothing=0,
    shift=0,
)


def pictures(count: int, seed: int) -> Batch:
    """Noisy pictures of three classes: one colour channel is brighter than the others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pixels = rng.integers(0, 120, (count, 16, 16, 3))
    pixels[np.arange(count), :, :, labels] += 60
    return pixels.astype(np.uint8), labels.astype(np.int64)


def data(train_size: int = 48, *, batch: int = 8, test_size: int = 30) -> TrainingData:
    pixels, labels = pictures(train_size, 1)
    test = pictures(test_size, 2)

    def batches(_: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(train_size)
        for start in range(0, train_size, batch):
            chosen = order[start : start + batch]
            yield pixels[chosen], labels[chosen]

    return TrainingData(batches, lambda: iter([test]), train_size, test_size)


def net(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(3)


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    return {key: tensor.contiguous().numpy().tobytes() for key, tensor in module.state_dict().items()}


class TinyTwoHeads(nn.Module):
    """Batch norm, and an auxiliary head while it trains."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.aux = nn.Linear(6 * 4 * 4, classes)
        self.head = nn.Linear(6 * 4 * 4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def two_heads(seed: int = 0) -> TinyTwoHeads:
    torch.manual_seed(seed)
    return TinyTwoHeads(3)


def stopped(module: nn.Module, source: TrainingData, recipe: Recipe, after: int, folder: Path) -> TrainingState:
    """The state on disk of a training that was stopped after so many epochs."""
    path = resume_path(folder / "m.pt")

    def stop(facts: EpochFacts, state: TrainingState) -> None:
        save_state(path, state, {})
        if facts.epoch == after:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted):
        train(module, source, PREPROCESS, recipe, on_epoch=stop)
    return load_state(path)[0]
