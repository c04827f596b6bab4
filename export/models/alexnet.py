"""Four networks that people call AlexNet, told apart by the keys and shapes of their state dicts.

The paper is Krizhevsky, Sutskever, Hinton: *ImageNet Classification with Deep Convolutional Neural
Networks*, NIPS 2012. Every class takes the number of classes and of input channels, maps float32
``[batch, channels, height, width]`` to logits ``[batch, classes]``, and initialises itself so that it
learns from scratch: as the paper says in :class:`AlexNet2012`, Kaiming-normal (He et al. 2015, eq. 10)
in the others, whose usual initialisation stays at chance on small data.
"""

from collections import OrderedDict

import torch
from torch import nn


class AlexNet(nn.Module):
    """The widespread variant (64-192-384-256-256), keys ``features.N`` and ``classifier.N``.

    It is the network of Krizhevsky's *One weird trick for parallelizing convolutional neural networks*
    (2014), as PyTorch users know it: an adaptive 6×6 pool lets it take any input from 63×63 pixels up.
    """

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )
        initialise_kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x))
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits


class AlexNet2012(nn.Sequential):
    """The paper's network, for 227×227: two groups, local response normalisation, overlapping pools.

    Feature maps are 55-27-13-6 pixels wide; conv 1 has 34,848 weights and the whole 60.97 M parameters at
    1000 classes. Layers carry the names they have had since Caffe: ``conv1 … conv5, fc6, fc7, fc8``.

    The paper prints its normalisation as ``a / (k + α Σ a²)^β``. Its authors' code, Caffe, ONNX and PyTorch
    divide α by the window n; this follows the code, since that is what trained the published network.
    """

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.5) -> None:
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(channels, 96, 11, stride=4),
            "relu1": nn.ReLU(inplace=True),
            "norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            "pool1": nn.MaxPool2d(3, stride=2),
            "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2),
            "relu2": nn.ReLU(inplace=True),
            "norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            "pool2": nn.MaxPool2d(3, stride=2),
            "conv3": nn.Conv2d(256, 384, 3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2),
            "relu5": nn.ReLU(inplace=True),
            "pool5": nn.MaxPool2d(3, stride=2),
            "flatten": nn.Flatten(),
            "fc6": nn.Linear(256 * 6 * 6, 4096),
            "relu6": nn.ReLU(inplace=True),
            "drop6": nn.Dropout(dropout),
            "fc7": nn.Linear(4096, 4096),
            "relu7": nn.ReLU(inplace=True),
            "drop7": nn.Dropout(dropout),
            "fc8": nn.Linear(4096, classes),
        }
        super().__init__(OrderedDict(layers))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """The paper's section 5: weights from N(0, 0.01²); biases 1 in conv 2, 4, 5 and the hidden linear layers."""
        for name, layer in self.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, float(name in {"conv2", "conv4", "conv5", "fc6", "fc7"}))


class AlexNetSingle(nn.Module):
    """One tower of the paper's widths without LRN, for 227×227: keys ``conv1.0 … conv5.0, lostlayer.N``."""

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, stride=2))
        self.conv2 = nn.Sequential(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2))
        self.conv3 = nn.Sequential(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU())
        self.conv5 = nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2))
        self.lostlayer = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        initialise_kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))
        logits: torch.Tensor = self.lostlayer(torch.flatten(x, 1))
        return logits


class AlexNetD2L(nn.Sequential):
    """The flat variant for greyscale 224×224, conv 1 padded by 1: keys ``0, 3, 6, 8, 10, 14, 17, 20``."""

    def __init__(self, classes: int, channels: int = 1, dropout: float = 0.5) -> None:
        super().__init__(
            nn.Conv2d(channels, 96, 11, stride=4, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(96, 256, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Flatten(),
            nn.Linear(256 * 5 * 5, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        initialise_kaiming(self)


@torch.no_grad()
def initialise_kaiming(module: nn.Module) -> None:
    """Weights from N(0, 2 / fan_in) (He et al. 2015, eq. 10), of the last layer from N(0, 0.01²); biases zero.

    The last layer has no ReLU after it, and small logits start the loss at log(classes) instead of far above.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01)
