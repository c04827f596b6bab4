"""What a training is about: data, network, preprocessing and recipe, settled before anything runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import CheckpointError, InputError
from engines.files import digest_bytes
from engines.preprocess import Preprocess
from engines.progress import Progress
from export.models.registry import architecture as find_architecture
from export.recipe import Recipe, recipe_for
from toolkit.data import Dataset, open_dataset, suggest_preprocess

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.sources.description import Description

DEFAULTS: Mapping[str, Any] = {"data": "digits", "architecture": "alexnet"}
QAT_RECIPE = "qat"
PICTURES = ("input_size", "channels", "mean", "std", "resize", "crop_fraction", "interpolation")
"""Options that say how pictures become the network's input."""

_FLAGS = {"source": "--from", "learning_rate": "--learning-rate"}


@dataclass(frozen=True)
class Job:
    """Everything that decides a training's outcome: the same job on the same machine gives the same weights.

    Attributes:
        options: what was asked for, by name; an option left out is None.
        data_digest: of the images and labels of both splits (of paths and sizes where they are files).
        labels: one name a class.
        architecture: the registry's name, or what metadata calls a network of people's own.
        preprocess: how the network sees images.
        recipe: the numbers.
        model: what ``--model`` says; None for a network of the registry.
        source: the digest of the weights that it begins with; "" for weights drawn anew.
        qat: it trains with the rounding of the INT8 graph.
    """

    options: Mapping[str, Any]
    data_digest: str
    labels: tuple[str, ...]
    architecture: str
    preprocess: Preprocess
    recipe: Recipe
    model: str | None = None
    source: str = ""
    qat: bool = False

    def digest(self) -> str:
        """Equal digests mean the same training."""
        facts = [self.data_digest, *self.labels, self.architecture, self.preprocess.digest(), self.recipe.digest()]
        if self.source or self.qat:
            facts += [self.source, str(self.qat)]
        return digest_bytes(json.dumps(facts).encode())

    def to_json(self) -> dict[str, Any]:
        """What an unfinished training keeps, so that :func:`continued` can go on with it."""
        return {"options": dict(self.options), "data_digest": self.data_digest, "digest": self.digest()}


def prepare(
    options: Mapping[str, Any], log_interval: int | None, progress: Progress, *, trust_pickle: bool = False
) -> "tuple[Job, Dataset, Checkpoint | None]":
    """Open the data and settle what was left open.

    Args:
        options: data, architecture, model, source, qat, recipe, those of :data:`PICTURES`, and the numbers of the
            recipe; None where not given.
        log_interval: of the recipe; it doesn't shape the result.
        progress: told of the check of the data.
        trust_pickle: for the source.

    Returns:
        The job, its data, and the checkpoint that it begins from.

    Raises:
        CheckpointError: the source can't be loaded.
        DataError: the data can't be used.
        InputError: a bad option, or options that contradict each other.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _check(given)
    if trust_pickle and "source" not in given:
        raise InputError("--trust-pickle is about --from, which isn't given", "leave --trust-pickle out")
    numbers = {entry.name: given[entry.name] for entry in fields(Recipe) if entry.name in given}
    model, qat = given.get("model"), bool(given.get("qat"))
    source = _source(given, trust_pickle)
    name = _name(given, source)
    named = given.get("recipe") or (QAT_RECIPE if qat else None)
    recipe = recipe_for(name, named, **numbers, log_interval=log_interval)
    _check_heard(numbers, recipe)
    dataset = open_dataset(given.get("data", DEFAULTS["data"]), progress=progress)
    preprocess = _preprocess(given, dataset, name if model is None else None, source)
    job = Job(
        dict(options),
        _digest(dataset),
        dataset.labels,
        name,
        preprocess,
        recipe,
        model,
        source.digest if source else "",
        qat,
    )
    return job, dataset, source


def continued(run: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an unfinished training, which those given now may repeat but not change.

    Raises:
        InputError: one differs.
    """
    began: dict[str, Any] = dict(run["options"])
    for name, value in options.items():
        before = began.get(name)
        before = tuple(before) if isinstance(before, list) else before
        began[name] = before
        if value is not None and value != (DEFAULTS.get(name) if before is None else before):
            raise InputError(
                f"the unfinished training has {name.replace('_', ' ')} {'by default' if before is None else before}, "
                f"not {value}",
                f"leave {flag(name)} out, or train anew with --force instead of --resume",
            )
    return began


def flag(name: str) -> str:
    """The command's option for a keyword."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _check(given: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other."""
    if "architecture" in given and "model" in given:
        raise InputError("--architecture and --model both name the network", "give one of the two")
    if given.get("recipe") == QAT_RECIPE and not given.get("qat"):
        raise InputError("--recipe qat is that of --qat, which isn't given", "add --qat, or take another recipe")
    if "source" in given:
        return
    if given.get("qat"):
        raise InputError("--qat fine-tunes a trained network, and none is given", "give one with --from model.pt")
    if given.get("freeze"):
        raise InputError("--freeze would keep random weights: no trained network is given", "give one with --from")


def _check_heard(numbers: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse numbers that the recipe has no use for."""
    for name, heard, by in (
        ("momentum", recipe.optimizer == "sgd", "--optimizer sgd"),
        ("plateau_patience", recipe.schedule == "plateau", "--schedule plateau"),
        ("plateau_factor", recipe.schedule == "plateau", "--schedule plateau"),
    ):
        if name in numbers and not heard:
            raise InputError(f"{flag(name)} is only heard with {by}", f"add {by}, or leave {flag(name)} out")


def _source(given: Mapping[str, Any], trust_pickle: bool) -> "Checkpoint | None":
    if "source" not in given:
        return None
    from export.checkpoint import load_checkpoint

    path, said = Path(given["source"]), _said(given)
    load = partial(
        load_checkpoint,
        path,
        architecture=given.get("architecture"),
        trust_pickle=trust_pickle,
        model=given.get("model"),
    )
    try:
        source = load()
    except CheckpointError:
        if not said:
            raise
        source = load(describe=said)  # weights without metadata may need to be told their pictures
    if source.metadata.pictures is None or source.metadata.scores != "logits":
        raise InputError(
            f"'{given['source']}' is no classifier of pictures that gives logits, and can't be trained as one",
            "give another --from",
        )
    return source


def _name(given: Mapping[str, Any], source: "Checkpoint | None") -> str:
    if "model" in given:
        from export.sources.own import read_spec

        return str(read_spec(given["model"]))
    name: str = source.metadata.architecture if source else given.get("architecture", DEFAULTS["architecture"])
    find_architecture(name)
    return name


def _preprocess(
    given: Mapping[str, Any], dataset: Dataset, architecture: str | None, source: "Checkpoint | None"
) -> Preprocess:
    """What the source was trained with, else what suits the data; what was said is preferred to both."""
    said = _said(given)
    base = Preprocess(224, 224) if architecture is None else find_architecture(architecture).preprocess
    try:
        usual = said.pictures(base if source is None else source.metadata.preprocess)
    except InputError as error:
        error.remedy = f"correct {' or '.join(said.of_pictures())}" if said.of_pictures() else error.remedy
        raise
    if source is not None:
        return usual
    suited = suggest_preprocess(dataset, usual.height, usual.width, usual.channels, usual.mean, usual.std)
    return said.pictures(replace(suited, crop_fraction=usual.crop_fraction))


def _said(given: Mapping[str, Any]) -> "Description":
    from export.sources.description import Description

    return Description(**{name: given[name] for name in PICTURES if name in given})


def _digest(dataset: Dataset) -> str:
    parts: list[bytes] = [json.dumps([dataset.name, dataset.labels]).encode()]
    for split in (dataset.train, dataset.test):
        parts += [split.labels.tobytes(), split.identity()]
    return digest_bytes(*parts)
