"""Weights in safetensors files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engines.errors import CheckpointError
from export.checkpoint import load_checkpoint
from export.models.registry import build
from export.sources.description import Description
from export.sources.safetensors import header_notes
from tests.export.sources.networks import SIZE, code_in, network, pictures


@pytest.mark.parametrize("name", ["model.safetensors", "weights.bin"])
def test_a_network_of_the_registry_is_recognised_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("lenet", 4, 1).eval()
    save_file(dict(net.state_dict()), tmp_path / name, metadata={"author": "someone"})
    checkpoint = load_checkpoint(tmp_path / name)
    assert (checkpoint.metadata.architecture, checkpoint.recognised) == ("lenet", True)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(checkpoint.module(x), net(x))
    assert header_notes(tmp_path / name) == {"author": "someone"}


def test_bfloat16_and_several_files_hold_the_same_network(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.bfloat16().float())
    state = {key: value.bfloat16() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    keys = list(state)
    parts = {"a-1.safetensors": keys[:3], "a-2.safetensors": keys[3:]}
    for name, held in parts.items():
        save_file({key: state[key] for key in held}, tmp_path / name)
    index = tmp_path / "a.safetensors.index.json"
    places = {key: name for name, held in parts.items() for key in held}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    checkpoint = load_checkpoint(index, model=f"{code_in(tmp_path)}:Net", describe=Description(input_size=SIZE))
    assert torch.equal(checkpoint.module(pictures()), net(pictures()))
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names 'a-2.safetensors', which is missing"):
        load_checkpoint(index)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "is no index of weights"),
        ('{"weight_map": {"a": "../../etc/passwd.safetensors"}}', "no safetensors file in its folder"),
        ('{"weight_map": {"a": "model.bin"}}', "no safetensors file in its folder"),
    ],
)
def test_a_bad_index_is_refused(text: str, cause: str, tmp_path: Path) -> None:
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=cause):
        load_checkpoint(index)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_checkpoint(tmp_path / "a.safetensors")
