"""VGG with 11, 13, 16 or 19 weighted layers, with and without batch normalisation.

Simonyan and Zisserman: *Very deep convolutional networks for large-scale image recognition*, ICLR 2015, table 1:
configurations A, B, D and E. Keys are torchvision's, ``features.N`` and ``classifier.N``, so that published
weights load.
"""

import torch
from torch import nn

from export.models.alexnet import initialise_kaiming

DEPTHS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions in each of the five blocks; every block ends in a 2×2 pool."""

WIDTHS = (64, 128, 256, 512, 512)
"""Output channels of a block's convolutions."""


class VGG(nn.Module):
    """Blocks of 3×3 convolutions, then three linear layers.

    Maps float32 ``[batch, channels, height, width]`` from 32×32 pixels up (an adaptive 7×7 pool, which does nothing
    at 224×224) to logits ``[batch, classes]``. Initialised Kaiming-normal (He et al. 2015, eq. 10).

    Args:
        classes: number of logits.
        channels: input channels.
        depth: weighted layers: 11, 13, 16 or 19.
        batch_norm: a batch normalisation behind every convolution.
        dropout: what the two dropout layers drop.
    """

    def __init__(
        self, classes: int, channels: int = 3, *, depth: int = 16, batch_norm: bool = False, dropout: float = 0.5
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, width in zip(DEPTHS[depth], WIDTHS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        initialise_kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x))
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits
