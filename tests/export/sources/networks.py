"""A small network of nobody's, and the files that people keep it in."""

import warnings
from pathlib import Path

import torch
from torch import nn

SIZE = 12
CODE = '''
import torch
from torch import nn
from parts import block

class Net(nn.Module):
    """Convolution, batch normalisation, local response normalisation, adaptive pool off a multiple."""
    def __init__(self, width=1, num_classes=5):
        super().__init__()
        self.features = nn.Sequential(block(1, 4 * width), nn.LocalResponseNorm(3), nn.AdaptiveAvgPool2d(5))
        self.head = nn.Linear(4 * width * 25, num_classes)

    def forward(self, x):
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))
'''
PARTS = """
from torch import nn

def block(channels, width):
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
"""


class Net(nn.Module):
    """The same, for this process."""

    def __init__(self, width: int = 1, num_classes: int = 5) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(1, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU())
        self.features = nn.Sequential(block, nn.LocalResponseNorm(3), nn.AdaptiveAvgPool2d(5))
        self.head = nn.Linear(4 * width * 25, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        result: torch.Tensor = self.head(x.view(x.size(0), -1))
        return result


def network(width: int = 1, classes: int = 5, seed: int = 0) -> Net:
    """With statistics as training leaves them, so that batch normalisation computes something."""
    torch.manual_seed(seed)
    net = Net(width, classes).eval()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else 0))
    return net


def pictures(count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def code_in(folder: Path) -> Path:
    """The network's code in a file that imports its neighbour."""
    (folder / "parts.py").write_text(PARTS)
    path = folder / "net.py"
    path.write_text(CODE)
    return path


def program(net: nn.Module, path: Path, *, free: bool = True, batch: int = 2) -> Path:
    """An archive of torch.export."""
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    torch.export.save(torch.export.export(net, (pictures(batch),), dynamic_shapes=shapes), str(path))
    return path


def script(net: nn.Module, path: Path, *, traced: bool = True) -> Path:
    """A TorchScript archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and its tracer remarks on Python values
        made = torch.jit.trace(net, pictures()) if traced else torch.jit.script(net)
        made.save(str(path))
    return path
