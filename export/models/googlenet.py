"""GoogLeNet: Inception blocks, and two auxiliary heads that only training has.

Szegedy et al.: *Going deeper with convolutions*, CVPR 2015, table 1, with batch normalisation behind every
convolution. Keys and details are torchvision's, which published weights need: its third branch has a 3×3 convolution
where the paper has 5×5 (a mistake in the code that trained those weights, kept ever since), ε is 0.001, pools round
their sizes up, and an auxiliary head begins with an adaptive 4×4 pool.
"""

import torch
from torch import nn

from export.models.alexnet import initialise_kaiming


class BasicConv2d(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Inception(nn.Module):
    """Four branches side by side, concatenated: 1×1; 1×1 then 3×3; 1×1 then 3×3 ("5×5"); max pool then 1×1.

    Args:
        inputs: input channels.
        one: channels of the first branch.
        three: of the second: after its reduction, after its 3×3 convolution.
        five: of the third, likewise.
        pool: of the fourth.
    """

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, three[0], 1), BasicConv2d(*three, 3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(inputs, five[0], 1), BasicConv2d(*five, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), BasicConv2d(inputs, pool, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    """An auxiliary head: 4×4 average, 1×1 convolution, two linear layers."""

    def __init__(self, inputs: int, classes: int, dropout: float = 0.7) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.conv = BasicConv2d(inputs, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.fc1(torch.flatten(self.conv(self.avgpool(x)), 1)))
        logits: torch.Tensor = self.fc2(self.dropout(x))
        return logits


class GoogLeNet(nn.Module):
    """The network, with its auxiliary heads while it trains.

    Maps float32 ``[batch, channels, height, width]`` of any size to logits ``[batch, classes]``; in training mode to
    the tuple ``(logits, logits of aux2, logits of aux1)``, main head first, or the logits alone where the heads were
    taken away. Initialised Kaiming-normal, the heads' last layers N(0, 0.01²).

    Attributes:
        aux1, aux2: the heads behind ``inception4a`` and ``inception4d``. None where a state dict was saved without
            them (:func:`export.models.registry.empty_for`); evaluation and export never run them.
    """

    aux1: InceptionAux | None
    aux2: InceptionAux | None

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(channels, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = InceptionAux(512, classes)
        self.aux2 = InceptionAux(528, classes)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, classes)
        initialise_kaiming(self)
        for head in (self.aux1, self.aux2):
            nn.init.normal_(head.fc2.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        early = x = self.inception4a(x)
        late = x = self.inception4d(self.inception4c(self.inception4b(x)))
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        logits: torch.Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        if not self.training:
            return logits
        heads = ((self.aux2, late), (self.aux1, early))
        others = tuple(head(features) for head, features in heads if head is not None)
        return (logits, *others) if others else logits
