import math
from dataclasses import replace

import pytest

from engines.errors import InputError
from export.models.registry import ARCHITECTURES
from export.recipe import RECIPES, Recipe, recipe_for


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


def test_recipes_are_of_networks_that_exist() -> None:
    assert RECIPES.keys() <= ARCHITECTURES.keys()
