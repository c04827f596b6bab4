"""Networks of torchvision and timm by name. Neither can be installed beside a CPU build of PyTorch, so stand-ins are.

They have the calls and return values of the real libraries (torchvision 0.20's ``get_model``, ``list_models``,
``get_model_weights(...).DEFAULT.transforms()`` and ``.meta``; timm 1.0's ``create_model``, ``list_models`` and
``pretrained_cfg``), and refuse to be asked for published weights.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from engines.errors import InputError, UnsupportedError
from engines.preprocess import Preprocess
from export.checkpoint import load_checkpoint
from export.sources import own
from export.sources.description import Description

NETWORK = """
from torch import nn

def network(num_classes=1000):
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
"""
TORCHVISION = """
import enum
from types import SimpleNamespace
from torchvision.net import network

class InterpolationMode(enum.Enum):
    BILINEAR = "bilinear"

def list_models():
    return ["resnet50", "resnet18"]

def get_model(name, *, weights, num_classes=1000):
    assert name == "resnet50" and weights is None
    return network(num_classes)

class Weights(enum.Enum):
    IMAGENET1K_V2 = "v2"
    DEFAULT = "v2"
    @property
    def meta(self):
        return {"categories": [f"thing {i}" for i in range(1000)]}
    def transforms(self):
        return SimpleNamespace(crop_size=[48], resize_size=[64], mean=[0.485, 0.456, 0.406],
                               std=[0.229, 0.224, 0.225], interpolation=InterpolationMode.BILINEAR)

def get_model_weights(name):
    return Weights
"""
TIMM = """
from timm.net import network

def list_models():
    return ["resnet50d"]

def create_model(name, *, pretrained, num_classes=1000):
    assert name == "resnet50d" and pretrained is False
    module = network(num_classes)
    module.pretrained_cfg = {"input_size": (3, 40, 40), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25),
                             "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    return module
"""


LIBRARIES = {"torchvision", "timm"}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in (("torchvision", "from torchvision import models"), ("timm", TIMM)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        (tmp_path / name / "net.py").write_text(NETWORK)
    (tmp_path / "torchvision" / "models.py").write_text(TORCHVISION)
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in {"torchvision", "timm"}
    }
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in LIBRARIES]:
        del sys.modules[name]
    sys.modules.update(hidden)


def weights(path: Path, classes: int) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, classes))
    torch.save(net.state_dict(), path)
    return net.eval()


def test_torchvisions_network_gets_the_files_weights_and_its_published_preprocessing(libraries: Path) -> None:
    net = weights(libraries / "w.pt", 1000)
    checkpoint = load_checkpoint(libraries / "w.pt", model="torchvision:resnet50")
    assert checkpoint.metadata.preprocess == Preprocess(48, 48, crop_fraction=0.75)
    assert checkpoint.metadata.labels[7] == "thing 7"
    assert checkpoint.metadata.architecture == "torchvision:resnet50"
    assert any("IMAGENET1K_V2" in note for note in checkpoint.notes)
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(checkpoint.module(x), net(x))


def test_another_number_of_classes_has_labels_of_its_own(libraries: Path) -> None:
    weights(libraries / "w.pt", 4)
    checkpoint = load_checkpoint(libraries / "w.pt", model="torchvision:resnet50")
    assert checkpoint.metadata.labels == ("class 0", "class 1", "class 2", "class 3")
    said = Description(input_size=32, mean=(0.5,), labels=("a", "b", "c", "d"))
    described = load_checkpoint(libraries / "w.pt", model="torchvision:resnet50", describe=said).metadata
    assert (described.preprocess.width, described.preprocess.mean, described.labels[3]) == (32, (0.5, 0.5, 0.5), "d")


def test_timms_network_has_the_preprocessing_of_its_configuration(libraries: Path) -> None:
    weights(libraries / "w.pt", 3)
    metadata = load_checkpoint(libraries / "w.pt", model="timm:resnet50d").metadata
    assert metadata.preprocess == Preprocess(
        40, 40, crop_fraction=0.95, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3
    )


def test_an_unknown_name_is_answered_with_the_nearest(libraries: Path) -> None:
    with pytest.raises(InputError, match=r"no network 'resnet5' \(did you mean resnet50"):
        own.build("torchvision:resnet5")


def test_a_library_that_is_missing_or_broken_is_one_line(libraries: Path) -> None:
    (libraries / "timm" / "__init__.py").write_text("import a_library_that_is_not")
    with pytest.raises(UnsupportedError, match="timm, which can't be imported here: No module named 'a_library_tha"):
        own.build("timm:resnet50d")
    (libraries / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    with pytest.raises(UnsupportedError, match="RuntimeError: operator nms does not exist"):
        own.build("torchvision:resnet50")
