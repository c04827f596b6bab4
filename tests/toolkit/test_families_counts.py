"""The counts that `toolkit inspect` gives of every family are the published ones."""

import json
from pathlib import Path

import pytest
import torch

from export.models.registry import build_empty, preprocess_for
from tests.toolkit.conftest import Shown
from toolkit.inspection.checkpoint import layer_table, training_only

PUBLISHED = {  # millions of parameters, billions of multiply-accumulates at 224×224: torchvision's documentation
    "alexnet": (61.10, 0.71),
    "vgg11": (132.86, 7.61),
    "vgg11-bn": (132.87, 7.61),
    "vgg13": (133.05, 11.31),
    "vgg13-bn": (133.05, 11.31),
    "vgg16": (138.36, 15.47),
    "vgg16-bn": (138.37, 15.47),
    "vgg19": (143.67, 19.63),
    "vgg19-bn": (143.68, 19.63),
    "googlenet": (6.62, 1.50),
    "resnet18": (11.69, 1.81),
    "resnet34": (21.80, 3.66),
    "resnet50": (25.56, 4.09),
    "resnet101": (44.55, 7.80),
    "resnet152": (60.19, 11.51),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_layers_that_run_come_to_what_is_published(name: str) -> None:
    rows = layer_table(build_empty(name, 1000), preprocess_for(name))
    parameters, macs = (sum(row.parameters for row in rows), sum(row.macs for row in rows))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == PUBLISHED[name]


def test_lenets_layers_come_to_what_is_counted_by_hand() -> None:
    rows = layer_table(build_empty("lenet", 10), preprocess_for("lenet"))
    assert sum(row.parameters for row in rows) == 61_706
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    assert sum(row.macs for row in rows) == convolutions + 400 * 120 + 120 * 84 + 84 * 10
    assert [row.output for row in rows if row.kind == "AvgPool2d"] == [(6, 14, 14), (16, 5, 5)]


def test_auxiliary_heads_are_counted_apart() -> None:
    module = build_empty("googlenet", 10)
    heads = sum(p.numel() for key, p in module.named_parameters() if key.startswith("aux"))
    assert training_only(module, "googlenet") == {"aux1": heads // 2 - 1024, "aux2": heads // 2 + 1024}
    assert training_only(module, "resnet18") == {}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GoogLeNet's state dict with its heads, as published: without counters."""
    state = build_empty("googlenet", 1000).state_dict()
    path = tmp_path_factory.mktemp("published") / "googlenet.pt"
    kept = {key: torch.zeros(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, path)
    return path


def test_inspect_says_what_the_heads_add_and_that_export_drops_them(published: Path, shown: Shown) -> None:
    code, out, _ = shown(str(published))
    assert code == 0
    assert "6,624,904" in out
    assert "6,379,984 parameters more in aux1 and aux2, which export drops" in " ".join(out.split())
    code, out, _ = shown(str(published), "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["parameters"], sum(value["training_only"].values())) == (6_624_904, 6_379_984)
    assert value["macs"] == sum(layer["macs"] for layer in value["layers"])
    assert not [layer["name"] for layer in value["layers"] if layer["name"].startswith("aux")]
