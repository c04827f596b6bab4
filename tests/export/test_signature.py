"""What a module takes and gives is found by running it."""

from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engines.answers import answers_of
from engines.errors import InputError
from engines.tensors import TensorSpec
from export.signature import check_inputs, example, flat, outputs_of
from tests.tensor_nets import Segmented, segmentation, two_inputs

X = TensorSpec("x", "float32", ("batch", 4))
Pair = namedtuple("Pair", "left right")


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x,), ["output"]),
        (lambda x: (x, x[:, :2]), ["output0", "output1"]),
        (lambda x: {"b": x, "a": x[:, 0]}, ["b", "a"]),
        (lambda x: Pair(x, x), ["left", "right"]),
        (lambda x: Segmented(x, x), ["map", "classes"]),
        (lambda x: {"boxes": (x, x), "none": None}, ["boxes_output0", "boxes_output1"]),
    ],
)
def test_outputs_are_called_as_the_module_calls_them(make, names):
    assert [spec.name for spec in outputs_of(Gives(make), [X])] == names


def test_specs_have_types_shapes_and_a_free_batch():
    found = outputs_of(Gives(lambda x: (x.sum(1), x.argmax(1), x[:, :, None] > 0)), [X])
    assert [(spec.dtype, spec.shape) for spec in found] == [
        ("float32", ("batch",)),
        ("int64", ("batch",)),
        ("bool", ("batch", 4, 1)),
    ]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x.sum(0), "its first dimension is not the batch"),
        (lambda x: x.mean(), "its first dimension is not the batch"),
        (lambda x: x @ x.T, "only the first dimension may depend on the batch"),
        (lambda x: "text", "a str, no tensor"),
        (lambda x: {"n": 3}, "n: a int, no tensor"),
        (lambda x: (), "answers nothing"),
        (lambda x: x.bfloat16(), "bfloat16"),
        (lambda x: x.view(-1, 5), "the network can't take float32[2, 4]"),
        (lambda x: x.no_such_thing, "AttributeError: 'Tensor' object has no attribute"),
        (lambda x: {}["key"], "float32[2, 4]: KeyError: 'key'"),
    ],
)
def test_what_has_no_batch_or_is_no_tensor_is_refused(make, said):
    with pytest.raises(InputError) as caught:
        outputs_of(Gives(make), [X])
    assert said in f"{caught.value.cause} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TensorSpec("x", "float64", ("batch", 4)), "type that isn't supported"),
        (TensorSpec("x", "float32", (1, 4)), "has no batch"),
        (TensorSpec("x", "float32", ("batch", "length")), "length of the input"),
    ],
)
def test_inputs_that_no_graph_can_have_are_refused(spec, said):
    with pytest.raises(InputError, match=said):
        check_inputs([spec])
    with pytest.raises(InputError, match="takes nothing"):
        check_inputs([])
    with pytest.raises(InputError, match="two inputs"):
        check_inputs([X, X])


def test_an_example_is_the_same_for_the_same_seed_and_valid_for_any_embedding():
    specs = [X, TensorSpec("ids", "int32", ("batch", 30)), TensorSpec("mask", "bool", ("batch", 30))]
    first, again = example(specs, 5, seed=3), example(specs, 5, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert [str(one.dtype) for one in first] == ["torch.float32", "torch.int32", "torch.bool"]
    assert set(first[1].unique().tolist()) == {0, 1}


def test_a_network_is_flat_within_the_block_alone():
    module, metadata = two_inputs()
    values = example(metadata.taken, 2)
    with flat(module):
        position, embedding = module(*values)
        assert "forward" in vars(module)
    assert "forward" not in vars(module)
    found = module(*values)
    assert torch.equal(found["position"], position)
    assert torch.equal(found["embedding"], embedding)


def test_metadata_tells_what_is_taken_given_and_scored():
    _, metadata = segmentation()
    assert [str(spec) for spec in metadata.taken] == ["input: float32[batch, 3, 8, 8]"]
    assert [spec.name for spec in metadata.given] == ["map", "classes"]
    assert metadata.scored is None
    three = (X, TensorSpec("scores", "float32", ("batch", 3)), TensorSpec("box", "float32", ("batch", 4)))
    classifier = replace(metadata, labels=("a", "b", "c"), scores="logits", outputs=three)
    assert classifier.scored == "scores"
    assert replace(classifier, outputs=()).scored == "logits"
    assert replace(classifier, outputs=(), scores="probabilities").scored == "probabilities"
    assert type(metadata).loads(metadata.dumps()) == metadata


def test_answers_are_the_tensors_themselves():
    value = torch.ones(2, 3)
    assert answers_of({"a": value})["a"] is value
    assert np.array_equal(answers_of([value])["output"].numpy(), np.ones((2, 3)))
