"""ResNet with 18, 34, 50, 101 or 152 weighted layers.

He, Zhang, Ren, Sun: *Deep residual learning for image recognition*, CVPR 2016, table 1. In the bottleneck the stride
is in the 3×3 convolution, as in Torch's and torchvision's code ("v1.5"), where the paper has it in the first 1×1:
published weights need that. Keys are torchvision's, so that they load.
"""

from collections.abc import Callable

import torch
from torch import nn

from export.models.alexnet import initialise_kaiming


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a skip connection: of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        result: torch.Tensor = self.relu(self.bn2(self.conv2(y)) + skip)
        return result


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolutions beside a skip connection: of ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        result: torch.Tensor = self.relu(self.bn3(self.conv3(y)) + skip)
        return result


STAGES: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""The kind of block, and how many of them each of the four stages has."""


class ResNet(nn.Module):
    """A 7×7 convolution and a pool, four stages of residual blocks, an average and a linear layer.

    Maps float32 ``[batch, channels, height, width]`` of any size to logits ``[batch, classes]``.

    Args:
        classes: number of logits.
        channels: input channels.
        depth: weighted layers: 18, 34, 50, 101 or 152.
        zero_init: the last batch normalisation of each block starts at γ = 0 (Goyal et al. 2017, section 5.1),
            so that a block starts as the identity: the depth doesn't matter to the first steps, which is what short
            runs on small data consist of. torchvision has it as ``zero_init_residual``, off.
    """

    def __init__(self, classes: int, channels: int = 3, *, depth: int = 18, zero_init: bool = True) -> None:
        super().__init__()
        block, counts = STAGES[depth]
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, 64, 64, counts[0])
        self.layer2 = stage(block, 64 * block.expansion, 128, counts[1], stride=2)
        self.layer3 = stage(block, 128 * block.expansion, 256, counts[2], stride=2)
        self.layer4 = stage(block, 256 * block.expansion, 512, counts[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, classes)
        initialise_kaiming(self)
        if zero_init:
            for part in self.modules():
                if isinstance(part, BasicBlock | Bottleneck):
                    nn.init.zeros_((part.bn2 if isinstance(part, BasicBlock) else part.bn3).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The 1×1 convolution of a skip connection whose shape changes; None where it doesn't (option B of the paper)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def stage(
    block: Callable[[int, int, int], nn.Module], inputs: int, width: int, count: int, stride: int = 1
) -> nn.Sequential:
    """``count`` blocks, the first of which may halve the picture."""
    expansion: int = getattr(block, "expansion", 1)
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * expansion, width, 1) for _ in range(count - 1)))
