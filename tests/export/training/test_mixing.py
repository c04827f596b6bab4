from dataclasses import replace

import numpy as np
import pytest
import torch

from export.training import TrainingData, train
from export.training.mixing import mixed, mixed_loss, mixed_right, partners
from tests.export.tiny_training import PREPROCESS, QUICK, net, pictures


@pytest.mark.parametrize("count", [4, 5, 1])
def test_neighbours_are_mixed_and_the_last_of_an_odd_number_stays(count: int) -> None:
    x = torch.randn(count, 3, 4, 4)
    result = mixed(x, torch.tensor([0.3])).numpy()
    for image in range(count):
        other = image + 1 if image % 2 == 0 else image - 1
        other = image if other == count else other
        np.testing.assert_allclose(result[image], 0.3 * x[image] + 0.7 * x[other], atol=1e-6)
        assert int(partners(count)[image]) == other


def test_the_loss_of_a_mixture_is_that_of_mixed_targets() -> None:
    logits, y = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 3, 1, 1])
    share = torch.tensor([0.7], dtype=torch.float64)
    smooth = 0.9 * torch.eye(4).double()[y] + 0.1 / 4
    target = 0.7 * smooth + 0.3 * smooth[[1, 0, 3, 2, 5, 4]]
    expected = -(target * logits.float().double().log_softmax(1)).sum(1).mean()
    assert float(mixed_loss(logits, y, share.float(), 0.1)) == pytest.approx(float(expected), rel=1e-5)


def test_an_answer_counts_for_what_it_has_of_the_mixture() -> None:
    y = torch.tensor([0, 1, 2, 2])
    logits = torch.eye(3)[[0, 0, 2, 1]]  # right; the partner's; right of both; of neither
    assert float(mixed_right(logits, y, torch.tensor([0.75]))) == pytest.approx(0.75 + 0.25 + 1)
    assert float(mixed_right(logits, y, None)) == 2


def test_a_training_draws_its_share_from_beta_of_the_seed() -> None:
    module = net().eval()
    pixels, labels = pictures(8, 1)
    one = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8)
    rng = np.random.default_rng((3, 0))
    rng.integers(2**62)  # torch's own seed
    share = rng.beta(0.4, 0.4)
    x = torch.from_numpy(PREPROCESS.normalise(pixels))
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    with torch.no_grad():
        shares = torch.log_softmax(module(share * x + (1 - share) * x[swapped]).double(), 1).numpy()
    target = share * np.eye(3)[labels] + (1 - share) * np.eye(3)[labels][swapped]
    result = train(module, one, PREPROCESS, replace(QUICK, epochs=1, dropout=0, mixup=0.4, seed=3))
    assert 0.01 < share < 0.99
    assert result.history[0].train_loss == pytest.approx(-(target * shares).sum(1).mean(), rel=1e-4)
