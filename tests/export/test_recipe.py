import math
from dataclasses import replace
from typing import Any

import pytest

from engines.errors import InputError
from export.models.registry import ARCHITECTURES
from export.recipe import NAMED, RECIPES, Recipe, recipe_for


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    recipe = Recipe(learning_rate=2.0, schedule="cosine", warmup=0.2)
    assert [recipe.rate(done) for done in (0, 0.1, 0.2)] == [0, 1, 2]
    assert recipe.rate(0.6) == pytest.approx(1.0)
    assert recipe.rate(0.4) == pytest.approx(1 + math.cos(math.pi / 4))
    assert recipe.rate(1.0) == pytest.approx(0, abs=1e-12)
    assert {Recipe(learning_rate=0.3, schedule="constant", warmup=0).rate(done) for done in (0, 0.5, 1)} == {0.3}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("momentum", 1.0),
        ("warmup", 1.0),
        ("dropout", 1.0),
        ("label_smoothing", 1.0),
        ("shift", 0.5),
        ("seed", -1),
        ("log_interval", 0),
        ("optimizer", "lion"),
        ("schedule", "step"),
        ("initialisation", "zeros"),
        ("precision", "fp8"),
        ("plateau_patience", 0),
        ("plateau_factor", 1.0),
        ("pca_jitter", -0.1),
        ("mixup", float("inf")),
        ("ema", 1.0),
        ("aux_weight", -1.0),
        ("clip", -1.0),
    ],
)
def test_numbers_that_cannot_train_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"bad training option: .*{value}"):
        recipe_for("alexnet", **{field: value})


def test_a_recipe_survives_json_and_its_digest_ignores_the_log_interval() -> None:
    recipe = recipe_for("alexnet", epochs=7, seed=None)
    assert recipe.epochs == 7
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert replace(recipe, log_interval=99).digest() == recipe.digest() != replace(recipe, seed=1).digest()
    with pytest.raises(InputError, match="recipe is damaged"):
        Recipe.from_json({"epoch": 3})


@pytest.mark.parametrize(
    ("choices", "cause"),
    [
        ({"schedule": "one-cycle", "warmup": 0.0}, "one-cycle with no warm-up"),
        ({"schedule": "one-cycle", "optimizer": "sgd", "momentum": 0.97}, "one-cycle moves a momentum of 0.97"),
        ({"mixup": 0.2, "batch_size": 1}, "mixup with a batch size of 1; at least 2"),
        ({"nesterov": True}, "Nesterov's momentum with adam; only sgd has it"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, "Nesterov's momentum with a momentum of 0"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(choices: dict[str, Any], cause: str) -> None:
    with pytest.raises(InputError, match=f"bad training option: {cause}"):
        recipe_for("alexnet", **choices)


def test_a_digest_from_before_there_were_more_options_stays_valid() -> None:
    # Of the default recipe, as the version wrote it that knew "constant" and "cosine" only.
    assert Recipe().digest() == "sha256:ca610a3d6aab994eae934fcf927cda52179b7cf45a718d6528b21f9f05125c95"
    old = {key: value for key, value in Recipe(epochs=9).to_json().items() if key not in {"ema", "crop", "clip"}}
    assert Recipe.from_json(old) == Recipe(epochs=9)
    assert len({Recipe().digest(), Recipe(ema=0.9).digest(), Recipe(crop=True).digest()}) == 3


def test_the_papers_recipe_is_the_papers() -> None:
    paper = recipe_for("alexnet-2012", "paper")
    assert (paper.optimizer, paper.momentum, paper.weight_decay) == ("sgd", 0.9, 0.0005)
    assert (paper.batch_size, paper.learning_rate, paper.epochs, paper.dropout) == (128, 0.01, 90, 0.5)
    assert (paper.schedule, paper.plateau_factor, paper.warmup, paper.initialisation) == ("plateau", 0.1, 0, "own")
    assert (paper.crop, paper.flip, paper.pca_jitter, paper.ten_crop, paper.decay_all) == (
        True,
        True,
        0.1,
        True,
        True,
    )
    assert (paper.shift, paper.label_smoothing, paper.mixup, paper.ema, paper.clip) == (0, 0, 0, 0, 0)


def test_named_recipes_take_choices_and_default_is_the_architectures_own() -> None:
    assert recipe_for("alexnet-2012", "default") == recipe_for("alexnet-2012") == RECIPES["alexnet-2012"]
    assert recipe_for("alexnet", "default") == NAMED["default"] == Recipe()
    assert recipe_for("alexnet", "modern", epochs=2, ema=None) == replace(NAMED["modern"], epochs=2)
    with pytest.raises(InputError, match="there is no recipe 'best'"):
        recipe_for("alexnet", "best")


def test_recipes_are_of_networks_that_exist() -> None:
    assert RECIPES.keys() <= ARCHITECTURES.keys()
