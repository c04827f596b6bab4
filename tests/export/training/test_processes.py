"""Two processes against one, over gloo, through the whole loop."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from export.evaluation import Batch
from export.recipe import Recipe
from export.training import TrainingData, TrainingResult, train
from export.training.distributed import ALONE, Group, joined
from tests.export.tiny_training import PREPROCESS, QUICK, net, pictures
from tests.forking import forkserver

# 43 images in batches of 8: the last has 3, of which one process has the pair and the other one image.
RECIPE = replace(
    QUICK, optimizer="sgd", learning_rate=0.02, shift=0.2, flip=True, pca_jitter=0.1, mixup=0.3, ema=0.9, clip=0.5
)


def shared_out(group: Group) -> TrainingData:
    pixels, labels = pictures(43, 1)
    test = pictures(31, 2)
    own = group.share(31)

    def batches(_: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(43)
        for start in range(0, 43, 8):
            chosen = order[start : start + 8]
            chosen = chosen[group.share(len(chosen))]
            yield pixels[chosen], labels[chosen]

    return TrainingData(batches, lambda: iter([(test[0][own], test[1][own])]), 43, 31)


def run(group: Group, recipe: Recipe) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    module = net()
    module.drop.p = 0.0
    result = train(module, shared_out(group), PREPROCESS, recipe, group=group)
    return result, module.state_dict()


def process(rank: int, port: int, folder: str) -> None:
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined("cpu", Group(rank, 2, rank)) as group:
        torch.save(run(group, RECIPE), Path(folder) / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_give_what_one_gives_up_to_rounding(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forkserver()  # with PyTorch imported
    multiprocessing.start_processes(process, (port, str(tmp_path)), nprocs=2, start_method="forkserver")
    (first, weights), (second, same) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert all(torch.equal(value, same[key]) for key, value in weights.items())
    assert [replace(one, seconds=0) for one in first.history] == [replace(one, seconds=0) for one in second.history]
    alone, expected = run(ALONE, RECIPE)
    for key, value in expected.items():
        np.testing.assert_allclose(weights[key], value, atol=2e-5, err_msg=key)
    assert first.accuracy == alone.accuracy
    for ours, theirs in zip(first.history, alone.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.train_accuracy == pytest.approx(theirs.train_accuracy, abs=1e-4)
        assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-4)
        assert ours.test_accuracy == theirs.test_accuracy
