"""What networks take and give, found by running them, and what a user says of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export.onnx_export import to_onnx
from export.reference import exact
from export.sources.description import Description, description_of, metadata_of, read_input, read_labels
from export.sources.heads import describe

BASE = Preprocess(8, 8)


@dataclass
class Answer:
    """As Hugging Face's classifiers answer; what is None isn't there."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    states: torch.Tensor


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body, self.head = kind, nn.Conv2d(3, 2, 8), nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> Any:
        states = self.body(x)
        logits = self.head(states.flatten(1))
        answers = {
            "logits": logits,
            "softmax": logits.softmax(1),
            "dataclass": Answer(None, logits, states),
            "dict": {"logits": logits, "states": states},
            "tuple": (states, logits),
            "map": states,
        }
        return answers[self.kind]


def made(kind: str, description: Description = Description()) -> tuple[nn.Module, ModelMetadata, tuple[str, ...]]:  # noqa: B008 - frozen
    torch.manual_seed(0)
    found = describe(Net(kind).eval(), "net.py:Net", description, base=BASE)
    return found.module, found.metadata, found.notes


@pytest.mark.parametrize("kind", ["dataclass", "dict"])
def test_logits_are_taken_out_of_a_structure_and_that_is_told(kind: str) -> None:
    module, metadata, notes = made(kind)
    assert (metadata.scores, len(metadata.labels), metadata.outputs) == ("logits", 4, ())
    assert "'logits' is taken" in notes[0]
    plain, _, _ = made("logits")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(module(x), plain(x))


def test_layers_keep_their_names_where_outputs_were_chosen() -> None:
    module, metadata, _ = made("dataclass")
    graph = to_onnx(module, metadata).graph
    assert [node.name for node in graph.node if node.op_type != "Reshape"] == ["body", "head"]
    assert [value.name for value in graph.output] == ["logits"]


def test_a_copy_in_float64_answers_with_its_own_weights() -> None:
    module, _, _ = made("dict")
    copy = exact(module)
    assert copy(torch.randn(2, 3, 8, 8).double()).dtype == torch.float64


def test_outputs_that_are_asked_for_are_kept_in_that_order() -> None:
    module, metadata, _ = made("dict", Description(outputs=("states", "logits")))
    assert [spec.name for spec in metadata.outputs] == ["states", "logits"]
    assert (metadata.scores, metadata.scored) == ("logits", "logits")
    assert list(module(torch.zeros(2, 3, 8, 8))) == ["states", "logits"]
    with pytest.raises(InputError, match="no output 'features'"):
        made("dict", Description(outputs=("features",)))


def test_labels_of_what_is_said_to_be_no_classifier_are_refused() -> None:
    with pytest.raises(InputError, match="--labels are given for a network with --scores none"):
        made("logits", Description(scores="none", labels=("a", "b", "c", "d")))


def test_a_softmax_at_the_end_is_seen_by_running_it() -> None:
    assert made("softmax")[1].scores == "probabilities"
    assert made("logits")[1].scores == "logits"
    assert made("softmax", Description(scores="logits"))[1].scores == "logits"


def test_what_gives_no_scores_is_no_classifier() -> None:
    _, metadata, _ = made("map")
    assert (metadata.scores, metadata.labels) == ("none", ())
    assert [str(spec) for spec in metadata.outputs] == ["output: float32[batch, 2, 1, 1]"]
    with pytest.raises(InputError, match="--labels"):
        made("map", Description(labels=("a", "b")))
    assert made("tuple")[1].scores == "none"
    assert made("logits", Description(scores="none"))[1].outputs[0].shape == ("batch", 4)


class Two(nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (ids * mask).float()


def test_inputs_must_be_those_of_forward_in_its_order() -> None:
    with pytest.raises(CheckpointError, match=r"takes 2 inputs \(ids, mask\), and pictures are one \(give each with"):
        describe(Two(), "Two", Description(), base=BASE)
    ids, mask = read_input("ids=4:int64"), read_input("mask=4:int64")
    with pytest.raises(InputError, match=r"--input mask is number 1, in the forward method of Two number 2"):
        describe(Two(), "Two", Description(inputs=(mask, ids)), base=BASE)
    with pytest.raises(CheckpointError, match="takes 2 inputs"):
        describe(Two(), "Two", Description(inputs=(ids,)), base=BASE)
    metadata = describe(Two(), "Two", Description(inputs=(ids, mask), scores="none"), base=BASE).metadata
    assert [str(spec) for spec in metadata.taken] == ["ids: int64[batch, 4]", "mask: int64[batch, 4]"]
    assert metadata.pictures is None


@pytest.mark.parametrize("text", ["ids", "ids=", "=3", "ids=4:float8", "ids=0", "a b=3", "ids=3x0:int64", "ids=-3"])
def test_an_input_that_is_not_described_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_input(text)


def test_inputs_and_labels_are_read_as_they_are_written(tmp_path: Path) -> None:
    assert str(read_input("x=3x224×224")) == "x: float32[batch, 3, 224, 224]"
    assert str(read_input("age=scalar:int64")) == "age: int64[batch]"
    (tmp_path / "labels.txt").write_text("ant\nbee, the second\n")
    assert read_labels(tmp_path / "labels.txt") == ("ant", "bee, the second")
    assert read_labels("ant, bee") == ("ant", "bee")
    with pytest.raises(InputError, match="empty"):
        read_labels("ant,,bee")


def test_what_is_said_becomes_metadata_and_is_had_back_from_it() -> None:
    said = Description(
        input_size=(32, 48), channels=1, mean=(0.5,), std=(0.25,), resize="stretch", crop_fraction=1.0,
        interpolation="bicubic", labels=("a", "b"), scores="probabilities",
    )  # fmt: skip
    metadata = metadata_of(said, "net", classes=2)
    assert metadata.pictures == Preprocess(32, 48, 1, "stretch", 1.0, "bicubic", (0.5,), (0.25,))
    assert (metadata.labels, metadata.scores) == (("a", "b"), "probabilities")
    assert Description.of(metadata) == said
    assert description_of({"mean": (0.5,)}) == Description(mean=(0.5,))
    assert not Description()
    with pytest.raises(InputError, match="3 labels for a network of 2 classes"):
        metadata_of(Description(labels=("a", "b", "c")), "net", classes=2)
    with pytest.raises(InputError, match="no 'means'"):
        description_of({"means": 1})
    with pytest.raises(InputError, match="--mean says how pictures"):
        Description(mean=(0.5,), inputs=(read_input("x=3"),))


def test_one_value_holds_for_every_channel_and_three_become_their_mean() -> None:
    assert Description(mean=(0.5,)).pictures(BASE).mean == (0.5, 0.5, 0.5)
    assert Description(channels=1).pictures(BASE).mean == (0.449,)
