"""An ensemble gives the mean of its members' probabilities, whatever their normalisation and order of classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from engines.errors import CheckpointError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.checkpoint import Checkpoint
from export.ensemble import ensemble
from export.state_dicts import digest_state
from tests.tiny import METADATA, PREPROCESS, SIZE, tiny_graph
from tests.tiny_torch import tiny_module

PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)


def checkpoint(seed: int, metadata: ModelMetadata = METADATA, module: nn.Module | None = None) -> Checkpoint:
    module = module or tiny_module(tiny_graph(seed=seed))
    return Checkpoint(module.eval(), metadata, recognised=False, digest=digest_state(dict(module.state_dict())))


def said(one: Checkpoint) -> NDArray[np.float64]:
    """One member's probabilities of the pixels, through its own preprocessing, computed in float64 by numpy."""
    floats = torch.from_numpy(one.metadata.preprocess.normalise(PIXELS))
    with torch.no_grad():
        logits = one.module(floats).double().numpy()
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def answered(whole: Checkpoint) -> NDArray[np.float64]:
    with torch.no_grad():
        return np.asarray(whole.module(torch.from_numpy(whole.metadata.preprocess.normalise(PIXELS))).double())


def test_it_gives_the_mean_of_the_members_probabilities() -> None:
    members = [checkpoint(seed) for seed in range(3)]

    whole = ensemble(members)

    np.testing.assert_allclose(answered(whole), np.mean([said(one) for one in members], axis=0), atol=1e-6)
    assert whole.metadata.scores == "probabilities"
    assert whole.metadata.labels == METADATA.labels
    assert whole.metadata.architecture == "ensemble of 3 tiny"
    assert whole.metadata.origin["weights"] == whole.digest
    assert whole.metadata.origin["members"].split(", ") == [one.digest for one in members]


def test_members_may_have_their_classes_in_another_order() -> None:
    order = [3, 0, 4, 1, 2]
    other = replace(METADATA, labels=tuple(METADATA.labels[index] for index in order))
    first, second = checkpoint(0), checkpoint(1, other)

    whole = ensemble([first, second])

    theirs = np.empty_like(said(second))
    theirs[:, order] = said(second)
    np.testing.assert_allclose(answered(whole), (said(first) + theirs) / 2, atol=1e-6)


def test_members_may_normalise_their_pixels_in_another_way() -> None:
    other = replace(METADATA, pictures=replace(PREPROCESS, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 1.0)))
    members = [checkpoint(0), checkpoint(1, other)]

    whole = ensemble(members)

    np.testing.assert_allclose(answered(whole), np.mean([said(one) for one in members], axis=0), atol=1e-5)
    assert not np.allclose(answered(whole), answered(ensemble([checkpoint(0), checkpoint(1)])), atol=1e-3)


def test_a_member_that_gives_probabilities_isnt_softmaxed_again() -> None:
    plain = checkpoint(1)
    soft = checkpoint(1, replace(METADATA, scores="probabilities"), nn.Sequential(plain.module, nn.Softmax(1)))

    np.testing.assert_allclose(
        answered(ensemble([checkpoint(0), soft])), answered(ensemble([checkpoint(0), plain])), atol=1e-6
    )


def test_other_weights_or_another_order_are_another_ensemble() -> None:
    first, second, third = (checkpoint(seed) for seed in range(3))
    digests = {ensemble(members).digest for members in ([first, second], [second, first], [first, third])}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        (replace(METADATA, labels=("class 0", "class 1", "class 2", "class 3", "cat")), "the class 'cat'"),
        (replace(METADATA, labels=METADATA.labels[:4]), "4 classes, not 5"),
        (replace(METADATA, pictures=Preprocess(SIZE, SIZE + 4, resize="stretch")), "width 20"),
        (replace(METADATA, pictures=replace(PREPROCESS, resize="crop")), "resize crop"),
        (replace(METADATA, scores="none", labels=()), "no plain classifier"),
        (replace(METADATA, outputs=(TensorSpec("a", "float32", ("batch", 2)),)), "no plain classifier"),
    ],
)
def test_a_member_that_doesnt_fit_the_first_is_refused_by_its_number(metadata: ModelMetadata, cause: str) -> None:
    with pytest.raises(CheckpointError, match=f"network 2.*{cause}"):
        ensemble([checkpoint(0), checkpoint(1, metadata)])


def test_one_network_and_the_same_one_twice_are_refused() -> None:
    with pytest.raises(CheckpointError, match="an ensemble of one"):
        ensemble([checkpoint(0)])
    with pytest.raises(CheckpointError, match="networks 1 and 3 have the same weights"):
        ensemble([checkpoint(0), checkpoint(1), checkpoint(0)])
