"""Tiny networks that aren't classifiers of pictures: several inputs, several outputs, maps, tokens."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.tensors import Array, TensorSpec
from export.signature import outputs_of

SIDE = 8
WORDS = 50


class TwoInputs(nn.Module):
    """A picture-like tensor and a vector in; a position and an embedding out, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.mix = nn.Linear(8 + 5, 16)
        self.position = nn.Linear(16, 4)
        self.embedding = nn.Linear(16, 6)

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.down(torch.relu(self.conv(image)))).mean((2, 3))
        x = torch.relu(self.mix(torch.cat([x, vector], 1)))
        return {"position": self.position(x), "embedding": 50 * self.embedding(x)}


@dataclass
class Segmented:
    """What :class:`Segmentation` gives."""

    map: torch.Tensor
    classes: torch.Tensor
    nothing: torch.Tensor | None = None


class Segmentation(nn.Module):
    """A map of three classes, and which is the largest at each place, in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> Segmented:
        found = self.head(torch.relu(self.up(torch.relu(self.down(x)))))
        return Segmented(found, found.argmax(1))


class Text(nn.Module):
    """A classifier of int64 tokens and a boolean mask, which it turns into float32 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.fc = nn.Linear(8, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask.unsqueeze(-1).float()
        x = (self.embed(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.out(torch.relu(self.fc(x)))


def two_inputs() -> tuple[nn.Module, ModelMetadata]:
    inputs = (
        TensorSpec("image", "float32", ("batch", 3, SIDE, SIDE)),
        TensorSpec("vector", "float32", ("batch", 5)),
    )
    return _made(TwoInputs, ModelMetadata("two-inputs", (), None, scores="none", inputs=inputs))


def segmentation() -> tuple[nn.Module, ModelMetadata]:
    return _made(Segmentation, ModelMetadata("segmentation", (), Preprocess(SIDE, SIDE), scores="none"))


def text() -> tuple[nn.Module, ModelMetadata]:
    inputs = (TensorSpec("ids", "int64", ("batch", 6)), TensorSpec("mask", "bool", ("batch", 6)))
    return _made(Text, ModelMetadata("text", ("bad", "fair", "good"), None, inputs=inputs))


def _made(kind: type[nn.Module], metadata: ModelMetadata) -> tuple[nn.Module, ModelMetadata]:
    torch.manual_seed(0)
    module = kind().eval()
    return module, metadata if metadata.scores != "none" else replace(
        metadata, outputs=outputs_of(module, metadata.taken)
    )


def samples(metadata: ModelMetadata, count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs at random, by name."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for spec in metadata.taken:
        shape = (count, *(int(size) for size in spec.shape[1:]))
        if spec.dtype == "float32":
            found[spec.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            found[spec.name] = rng.integers(0, 2 if spec.dtype == "bool" else WORDS, shape).astype(spec.dtype)
    return found
