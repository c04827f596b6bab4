"""Training that begins from another checkpoint, and of networks of one's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import CheckpointError, InputError
from export.checkpoint import Checkpoint, load_checkpoint
from export.models import registry
from export.training import TrainingInterrupted
from tests.toolkit.trainings import DEEP, colours
from toolkit.data import open_dataset
from toolkit.steps.train import train

CLASSES = (1, 4, 7)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations gain nothing from more, and lose much on a busy machine
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def deep_in_the_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ARCHITECTURES, "deep", DEEP)  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, trained on all ten digits."""
    path = tmp_path_factory.mktemp("digits") / "digits.pt"
    numbers: dict[str, Any] = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}
    report = train("digits", path, architecture="deep", curves=False, mean=[0.4] * 3, std=[0.3] * 3, **numbers)
    assert report.result.accuracy > 0.9
    return path


@pytest.fixture(scope="module")
def three_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures to train on and 90 to test, of three of the ten digits, under names of their own."""
    dataset = open_dataset("digits")
    arrays: dict[str, Any] = {"labels": np.array([f"digit {number}" for number in CLASSES])}
    for split, part, count in (("train", dataset.train, 4), ("test", dataset.test, 30)):
        chosen = np.concatenate([np.flatnonzero(part.labels == number)[:count] for number in CLASSES])
        assert isinstance(part.images, np.ndarray)
        arrays |= {f"x_{split}": part.images[chosen], f"y_{split}": np.searchsorted(CLASSES, part.labels[chosen])}
    path = tmp_path_factory.mktemp("three") / "three.npz"
    np.savez(path, **arrays)
    return path


FEW_STEPS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "precision": "fp32",
    "curves": False,
}


def test_a_network_that_knows_ten_digits_learns_three_of_them_faster_than_a_new_one(
    on_digits: Path, three_digits: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    options: dict[str, Any] = FEW_STEPS | {"epochs": 20}
    tuned = train(three_digits, tmp_path / "tuned.pt", source=on_digits, say=lines.append, **options)
    anew = train(three_digits, tmp_path / "anew.pt", architecture="deep", **options)
    assert tuned.result.history[-1].test_loss < anew.result.history[-1].test_loss
    assert 1 - tuned.result.accuracy < 0.5 * (1 - anew.result.accuracy)
    assert lines == [f"4 of 6 tensors taken from '{on_digits}'; begun anew: head"]
    assert tuned.transfer is not None
    assert tuned.transfer.left == ("head.weight", "head.bias")
    assert json.loads(json.dumps(tuned.to_json()))["transfer"]["anew"] == ["head.weight", "head.bias"]


def test_architecture_and_preprocessing_are_the_sources_unless_said_otherwise(
    on_digits: Path, three_digits: Path, tmp_path: Path
) -> None:
    usual = load_checkpoint(on_digits)
    assert usual.metadata.preprocess.mean == (0.4,) * 3
    tuned = train(three_digits, tmp_path / "a.pt", source=on_digits, **FEW_STEPS | {"epochs": 1})
    assert tuned.metadata.architecture == "deep"
    assert tuned.metadata.preprocess == usual.metadata.preprocess
    assert tuned.metadata.labels == open_dataset(three_digits).labels
    assert tuned.metadata.origin["source"] == usual.digest
    other = train(three_digits, tmp_path / "b.pt", source=on_digits, **FEW_STEPS | {"epochs": 1}, mean=[0.2] * 3)
    assert (other.metadata.preprocess.mean, other.metadata.preprocess.std) == ((0.2,) * 3, (0.3,) * 3)


def test_frozen_only_the_head_learns(on_digits: Path, three_digits: Path, tmp_path: Path) -> None:
    train(three_digits, tmp_path / "m.pt", source=on_digits, freeze=True, **FEW_STEPS)
    before, after = (load_checkpoint(path).module.state_dict() for path in (on_digits, tmp_path / "m.pt"))
    assert torch.equal(before["body.0.weight"], after["body.0.weight"])
    assert before["head.weight"].shape != after["head.weight"].shape


def test_bare_weights_begin_as_well_and_keep_their_head_for_as_many_classes(on_digits: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(load_checkpoint(on_digits).module.state_dict(), bare)
    report = train("digits", tmp_path / "m.pt", source=bare, **FEW_STEPS | {"epochs": 1}, mean=[0.4] * 3)
    assert report.transfer is not None
    assert report.transfer.left == ()


def test_an_interrupted_fine_tuning_resumes_to_the_very_same_weights(
    on_digits: Path, three_digits: Path, tmp_path: Path
) -> None:
    def stop(facts: Any) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"source": on_digits, "freeze": True, "flip": True, "ema": 0.9, **FEW_STEPS}
    whole = train(three_digits, tmp_path / "whole.pt", **options)
    with pytest.raises(TrainingInterrupted):
        train(three_digits, tmp_path / "m.pt", on_epoch=stop, **options)
    with pytest.raises(InputError, match="has freeze True, not False"):
        train(output=tmp_path / "m.pt", resume=True, freeze=False)
    with pytest.raises(InputError, match=r"has source .*, not other\.pt") as caught:
        train(output=tmp_path / "m.pt", resume=True, source="other.pt")
    assert caught.value.remedy.startswith("leave --from out")
    resumed = train(output=tmp_path / "m.pt", resume=True, freeze=True, curves=False)
    assert resumed.metadata == whole.metadata


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 7 * 7, num_classes)

    def forward(self, x):
        return self.head(self.body(x))

class Fixed(Net):
    def __init__(self):
        super().__init__(5)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(OWN)
    return f"{tmp_path / 'net.py'}:Net(width=6)"


def test_a_network_that_was_changed_since_the_interruption_is_refused(own: str, tmp_path: Path) -> None:
    def stop(facts: Any) -> None:
        raise KeyboardInterrupt

    data = colours(tmp_path / "colours.npz")
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "m.pt", model=own, input_size=16, curves=False, on_epoch=stop, **OWN_QUICK)
    (tmp_path / "net.py").write_text(OWN.replace("3, width, 3", "3, width, 3, bias=False"))
    with pytest.raises(CheckpointError, match="of another network") as caught:
        train(output=tmp_path / "m.pt", resume=True, curves=False)
    assert "--force" in caught.value.remedy


OWN_QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 10, "learning_rate": 5e-3, "precision": "fp32"}


def test_a_network_of_ones_own_trains_and_loads_again_by_the_same_name(own: str, tmp_path: Path) -> None:
    data = colours(tmp_path / "colours.npz")
    options: dict[str, Any] = {"model": own, "input_size": 16, "curves": False, **OWN_QUICK}
    report = train(data, tmp_path / "m.pt", **options)
    assert report.metadata.architecture == "net.py:Net(width=6)"
    assert report.result.accuracy >= 0.9
    loaded: Checkpoint = load_checkpoint(tmp_path / "m.pt", model=own)
    assert loaded.digest == report.metadata.origin["weights"]
    assert loaded.metadata.labels == open_dataset(data).labels
    assert train(data, tmp_path / "m.pt", **options).metadata == report.metadata
    tuned = train(data, tmp_path / "n.pt", source=tmp_path / "m.pt", model=own, curves=False, **OWN_QUICK)
    assert tuned.transfer is not None
    assert tuned.transfer.left == ()


def test_what_cannot_begin_is_refused_before_any_training(
    on_digits: Path, three_digits: Path, own: str, tmp_path: Path
) -> None:
    half = tmp_path / "half.pt"
    half.write_bytes(on_digits.read_bytes()[:2000])
    fixed = own.replace("Net(width=6)", "Fixed")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("--freeze would keep random weights", {"architecture": "deep", "freeze": True}),
        ("--qat fine-tunes a trained network", {"architecture": "deep", "qat": True}),
        ("'head.weight' would begin anew", {"source": on_digits, "qat": True}),
        ("half.pt' is a truncated or damaged checkpoint", {"source": half}),
        ("does not exist", {"source": tmp_path / "none.pt"}),
        ("is deep, not alexnet", {"source": on_digits, "architecture": "alexnet"}),
        ("both name the network", {"model": own, "architecture": "deep"}),
        ("has 5 classes, the data 3", {"model": fixed, "input_size": 16}),
        ("no recipe 'papr'", {"architecture": "deep", "recipe": "papr"}),
        ("mean and std need 3 value", {"architecture": "deep", "mean": [0.5, 0.5]}),
        ("--recipe qat is that of --qat", {"source": on_digits, "recipe": "qat"}),
        ("--trust-pickle is about --from", {"architecture": "deep", "trust_pickle": True}),
        ("--momentum is only heard with --optimizer sgd", {"source": on_digits, "momentum": 0.5}),
        ("--plateau-patience is only heard", {"source": on_digits, "plateau_patience": 3}),
        ("no dropout layers", {"source": on_digits, "dropout": 0.3}),
        ("no auxiliary heads", {"source": on_digits, "aux_weight": 0.3}),
        ("give one of the two|drops it", {"source": on_digits, "resume": True, "force": True}),
    ]
    before = sorted(tmp_path.iterdir())
    for cause, change in cases:
        with pytest.raises((InputError, CheckpointError), match=cause) as caught:
            train(three_digits, tmp_path / "m.pt", **change)
        assert caught.value.remedy
    assert sorted(tmp_path.iterdir()) == before
