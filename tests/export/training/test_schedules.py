from dataclasses import replace

import numpy as np
import pytest
import torch

from export.recipe import Recipe
from export.training import EpochFacts, train
from export.training.optimizers import optimizer_for
from export.training.schedules import adjust, plateaus, scale_of
from tests.export.tiny_training import PREPROCESS, QUICK, data, net

STEPS = 41


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("rise", [0.3, 0.1])
def test_one_cycle_is_torchs(optimizer: str, rise: float) -> None:
    recipe = replace(QUICK, optimizer=optimizer, schedule="one-cycle", warmup=rise, learning_rate=0.2)
    ours, theirs = optimizer_for(net(), recipe), optimizer_for(net(), recipe)
    # torch counts the rise in steps, of which the first is at zero; we in the share of the way to the last step.
    share = (rise * (STEPS - 1) + 1) / STEPS
    oracle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.2, total_steps=STEPS, pct_start=share)
    for step in range(STEPS):
        adjust(ours, recipe, step / (STEPS - 1), 1.0)
        for key in ("lr", "momentum" if optimizer == "sgd" else "betas"):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-9), (step, key)
        if step < STEPS - 1:
            theirs.step()
            oracle.step()


def facts(epoch: int, accuracy: float) -> EpochFacts:
    return EpochFacts(epoch, 1.0, 0.5, 1.0, accuracy, 1.0)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_plateaus_are_where_torch_lowers_the_rate(patience: int) -> None:
    recipe = Recipe(schedule="plateau", warmup=0, epochs=40, plateau_patience=patience, plateau_factor=0.5)
    accuracies = np.random.default_rng(patience).integers(0, 12, 40) / 12 + np.arange(40) / 80
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    # torch lowers the rate after more bad epochs than its patience.
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience - 1, threshold=0, eps=0)
    history: list[EpochFacts] = []
    for epoch, accuracy in enumerate(accuracies, 1):
        history.append(facts(epoch, float(accuracy)))
        oracle.step(float(accuracy))
        assert scale_of(history, recipe) == optimizer.param_groups[0]["lr"]
    assert plateaus(history, recipe) >= 1


def test_epochs_of_the_warm_up_are_no_plateau() -> None:
    recipe = Recipe(schedule="plateau", warmup=0.5, epochs=10, plateau_patience=2)
    history = [facts(epoch, 0.5) for epoch in range(1, 9)]
    assert [plateaus(history[:count], recipe) for count in range(1, 9)] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert scale_of(history, replace(recipe, schedule="constant")) == 1


def test_a_training_lowers_its_rate_on_a_plateau_and_says_so() -> None:
    # A rate so small that nothing is learned: every epoch after the first is a bad one.
    recipe = replace(QUICK, epochs=6, learning_rate=1e-12, schedule="plateau", plateau_patience=2, plateau_factor=0.1)
    history = train(net(), data(16), PREPROCESS, recipe).history
    assert [entry.learning_rate for entry in history] == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14])
    assert all(0 <= entry.waited <= 1 for entry in history)


def test_one_cycle_runs_over_the_whole_training() -> None:
    recipe = replace(QUICK, epochs=2, schedule="one-cycle", warmup=0.25, learning_rate=0.01)
    history = train(net(), data(), PREPROCESS, recipe).history
    # The last step of an epoch of six begins after 5/12 and 11/12 of the run.
    assert [entry.learning_rate for entry in history] == pytest.approx([recipe.rate(5 / 12), recipe.rate(11 / 12)])
    assert history[1].learning_rate < history[0].learning_rate < 0.01
