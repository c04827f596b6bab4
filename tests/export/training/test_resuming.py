"""Same seed, same bits; stopped and resumed, the same as never stopped: for every option, on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engines.errors import CheckpointError
from export.evaluation import Batch
from export.recipe import NAMED, Recipe
from export.resume import load_state, save_state
from export.training import EpochFacts, TrainingData, TrainingState, train
from tests.export.tiny_training import PREPROCESS, QUICK, bits, data, net, pictures, stopped, two_heads

BASE = replace(QUICK, epochs=4, dropout=0.3, shift=0.2)
OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"ema": 0.9},
    "plateau": {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.02, "optimizer": "sgd"},
    "one-cycle of sgd": {"schedule": "one-cycle", "warmup": 0.3, "optimizer": "sgd", "learning_rate": 0.05},
    "one-cycle of adamw": {"schedule": "one-cycle", "warmup": 0.3, "optimizer": "adamw"},
    "mixup": {"mixup": 0.4},
    "crops, mirrors and colours": {"crop": True, "flip": True, "pca_jitter": 0.1},
    "nesterov, clipped": {"optimizer": "sgd", "nesterov": True, "clip": 0.5},
    "decay of matrices": {"optimizer": "adamw", "weight_decay": 0.1, "decay_all": False},
    "bf16": {"precision": "bf16", "ema": 0.9},
    "frozen": {"freeze": True, "ema": 0.9},
    "all of the paper": {
        **{key: value for key, value in NAMED["paper"].to_json().items() if key not in {"epochs", "batch_size"}},
        "plateau_patience": 1,
        "ema": 0.9,
        "mixup": 0.2,
    },
}


def framed() -> TrainingData:
    """Pictures of 16x16 in frames of 18x18."""
    pixels, labels = pictures(40, 1)
    larger, test = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0))), pictures(30, 2)

    def batches(_: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(40)
        for start in range(0, 40, 8):
            chosen = order[start : start + 8]
            yield larger[chosen], labels[chosen]

    frames = np.pad(test[0], ((0, 0), (1, 1), (1, 1), (0, 0)))
    return TrainingData(batches, lambda: iter([test]), 40, 30, lambda: iter([(frames, test[1])]))


def compare(begin: Any, source: TrainingData, recipe: Recipe, folder: Path) -> None:
    whole = begin(0)
    expected = train(whole, source, PREPROCESS, recipe)
    again = begin(0)
    torch.manual_seed(99)
    train(again, source, PREPROCESS, recipe)
    assert bits(again) == bits(whole)
    other = begin(0)
    train(other, source, PREPROCESS, replace(recipe, seed=1))
    assert bits(other) != bits(whole)
    state = stopped(begin(0), source, recipe, 2, folder)
    torch._dynamo.reset()  # as in a new process
    resumed = begin(7)
    torch.manual_seed(1234)
    result = train(resumed, source, PREPROCESS, recipe, resume=state)
    assert bits(resumed) == bits(whole)
    assert replace(result, seconds=0, history=()) == replace(expected, seconds=0, history=())
    assert [replace(one, seconds=0) for one in result.history] == [
        replace(one, seconds=0) for one in expected.history
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    recipe = replace(BASE, **OPTIONS[name])
    if name == "plateau":  # which has to happen before the stop and after it
        assert len({entry.learning_rate for entry in train(net(), framed(), PREPROCESS, recipe).history[1:]}) > 1
    compare(two_heads if name == "frozen" else net, framed(), recipe, tmp_path)


def test_batch_norm_and_two_heads_resume_too(tmp_path: Path) -> None:
    compare(two_heads, framed(), replace(BASE, ema=0.9, mixup=0.2), tmp_path)


# Inductor's own imports use what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_resumes_and_keeps_plain_keys(tmp_path: Path) -> None:
    def begin(seed: int) -> nn.Module:
        module = net(seed)
        module.drop.p = 0.0
        return module

    recipe = replace(BASE, compile=True, dropout=None, epochs=3)
    torch._dynamo.reset()
    compare(begin, data(21), recipe, tmp_path)  # the last batch is smaller: a second shape to compile
    fast, slow = begin(0), begin(0)
    train(fast, data(21), PREPROCESS, recipe)
    train(slow, data(21), PREPROCESS, replace(recipe, compile=False))
    assert list(fast.state_dict()) == list(slow.state_dict()) == list(net().state_dict())
    for compiled, plain in zip(fast.parameters(), slow.parameters(), strict=True):
        np.testing.assert_allclose(compiled.detach(), plain.detach(), atol=1e-4)


def saved(folder: Path, recipe: Recipe) -> tuple[Path, TrainingState]:
    path, states = folder / "m.pt.resume", []

    def keep(_: EpochFacts, state: TrainingState) -> None:
        states.append(state)
        save_state(path, state, {"a": 1})

    train(net(), framed(), PREPROCESS, recipe, on_epoch=keep)
    return path, states[-1]


def test_a_state_holds_each_set_of_weights_once(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, replace(BASE, epochs=1, ema=0.9, pca_jitter=0.1))
    content = torch.load(path, weights_only=True)
    assert (content["version"], content["best"]) == (2, None)
    state, run = load_state(path)
    assert state.averaged is state.best
    assert state.averaged_steps == 5
    assert run == {"a": 1}


def test_states_of_the_version_before_are_read_and_of_later_ones_refused(tmp_path: Path) -> None:
    path, state = saved(tmp_path, replace(BASE, epochs=2))
    content = torch.load(path, weights_only=True)
    for key in ("averaged", "averaged_steps", "colours"):
        del content[key]
    content["history"] = [
        {key: value for key, value in entry.items() if key not in {"learning_rate", "waited"}}
        for entry in content["history"]
    ]
    torch.save(content | {"version": 1}, path)
    old, _ = load_state(path)
    assert (old.epoch, old.averaged, old.history[0].learning_rate) == (2, None, 0.0)
    assert old.history[1].test_loss == state.history[1].test_loss
    resumed, whole = net(seed=3), net()
    train(resumed, framed(), PREPROCESS, replace(BASE, epochs=3), resume=old)
    train(whole, framed(), PREPROCESS, replace(BASE, epochs=3))
    assert bits(resumed) == bits(whole)
    torch.save(content | {"version": 3}, path)
    with pytest.raises(CheckpointError, match="not the state of a training of this version"):
        load_state(path)


@pytest.mark.parametrize(("recipe", "what"), [({"ema": 0.9}, "moving average"), ({"pca_jitter": 0.1}, "axes")])
def test_a_state_that_lacks_what_the_recipe_needs_is_refused(recipe: dict[str, Any], what: str) -> None:
    states: list[TrainingState] = []
    train(net(), framed(), PREPROCESS, replace(BASE, epochs=1), on_epoch=lambda _, state: states.append(state))
    with pytest.raises(CheckpointError, match=f"has no .*{what}"):
        train(net(), framed(), PREPROCESS, replace(BASE, **recipe), resume=states[0])


def test_the_colours_are_learned_once() -> None:
    source, calls = framed(), []

    def counted(epoch: int, rng: np.random.Generator) -> Any:
        calls.append(epoch)
        return source.train(epoch, rng)

    states: list[TrainingState] = []
    recipe = replace(BASE, epochs=2, pca_jitter=0.1)
    counting = replace(source, train=counted)
    train(net(), counting, PREPROCESS, recipe, on_epoch=lambda _, state: states.append(state))
    assert calls == [0, 0, 1]
    train(net(), counting, PREPROCESS, replace(recipe, epochs=3), resume=states[-1])
    assert calls == [0, 0, 1, 2]
