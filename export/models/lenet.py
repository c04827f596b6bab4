"""LeNet with sigmoids and average pooling: what AlexNet is told against.

LeCun, Bottou, Bengio, Haffner: *Gradient-based learning applied to document recognition*, Proc. IEEE 1998, in the
form in which *Dive into Deep Learning* (D2L, section 7.6) teaches it: plain convolutions and linear layers in place
of the paper's partly connected C3 and its radial basis outputs.
"""

import torch
from torch import nn


class LeNet(nn.Sequential):
    """The flat Sequential for greyscale 28×28, keys ``0, 3, 7, 9, 11``; 61,706 parameters at 10 classes.

    Maps float32 ``[batch, channels, 28, 28]`` to logits ``[batch, classes]``. It is initialised by Xavier's rule
    (Glorot and Bengio 2010, eq. 16), without which its sigmoids hardly learn.
    """

    def __init__(self, classes: int, channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.Sigmoid(),
            nn.AvgPool2d(2, stride=2),
            nn.Conv2d(6, 16, 5),
            nn.Sigmoid(),
            nn.AvgPool2d(2, stride=2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            nn.Sigmoid(),
            nn.Linear(84, classes),
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights uniform in ±√(6 / (fan_in + fan_out)), biases zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
