"""What a training is about: data, network, preprocessing and recipe, settled before anything runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import DataError, InputError
from engines.files import digest_bytes
from engines.preprocess import Preprocess
from engines.progress import Progress
from export.models.registry import architecture as find_architecture
from export.models.registry import build_empty
from export.recipe import Recipe, recipe_for
from toolkit.data import Dataset, Split, open_dataset, pixel_batches, suggest_preprocess

if TYPE_CHECKING:
    from export.training import TrainingData

DEFAULTS: Mapping[str, Any] = {"data": "digits", "architecture": "alexnet"}
TEST_BATCH = 64


@dataclass(frozen=True)
class Job:
    """Everything that decides a training's outcome: the same job on the same machine gives the same weights.

    Attributes:
        options: what was asked for, by name; an option left out is None.
        data_digest: of the images and labels of both splits (of paths and sizes where they are files).
        labels: one name a class.
        architecture: the registry's name.
        preprocess: how the network sees images.
        recipe: the numbers.
    """

    options: Mapping[str, Any]
    data_digest: str
    labels: tuple[str, ...]
    architecture: str
    preprocess: Preprocess
    recipe: Recipe

    def digest(self) -> str:
        """Equal digests mean the same training."""
        facts = [self.data_digest, *self.labels, self.architecture, self.preprocess.digest(), self.recipe.digest()]
        return digest_bytes(json.dumps(facts).encode())

    def to_json(self) -> dict[str, Any]:
        """What an unfinished training keeps, so that :func:`continued` can go on with it."""
        return {"options": dict(self.options), "data_digest": self.data_digest, "digest": self.digest()}


def prepare(options: Mapping[str, Any], log_interval: int | None, progress: Progress) -> tuple[Job, Dataset]:
    """Open the data and settle what was left open.

    Args:
        options: data, architecture, input_size (height, width), and the numbers of the recipe; None where not given.
        log_interval: of the recipe; it doesn't shape the result.
        progress: told of the check of the data.

    Raises:
        CheckpointError: the network doesn't take the input size.
        DataError: the data can't be used.
        InputError: a bad option.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    given = {**DEFAULTS, **chosen}
    data, name, size = given.pop("data"), given.pop("architecture"), given.pop("input_size", None)
    usual = find_architecture(name).preprocess
    recipe = recipe_for(name, log_interval=log_interval, **given)
    dataset = open_dataset(data, progress=progress)
    height, width = size or (usual.height, usual.width)
    preprocess = suggest_preprocess(dataset, height, width, usual.channels, usual.mean, usual.std)
    preprocess = replace(preprocess, crop_fraction=usual.crop_fraction)
    _check_network(name, len(dataset.labels), preprocess)
    return Job(dict(options), _digest(dataset), dataset.labels, name, preprocess, recipe), dataset


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
                f"leave --{name.replace('_', '-')} out, or train anew with --force instead of --resume",
            )
    return began


def training_data(dataset: Dataset, job: Job) -> "TrainingData":
    """The data set as batches of pixels, shuffled anew every epoch."""
    from export.training import TrainingData

    size = job.recipe.batch_size
    return TrainingData(
        train=lambda _, rng: pixel_batches(
            dataset.train, job.preprocess, size, indices=rng.permutation(len(dataset.train)).astype(np.int64)
        ),
        test=lambda: pixel_batches(dataset.test, job.preprocess, TEST_BATCH),
        train_size=len(dataset.train),
        test_size=len(dataset.test),
    )


def _check_network(name: str, classes: int, preprocess: Preprocess) -> None:
    from export.checkpoint import check_input

    if classes < 2:
        raise DataError("the data has a single class", "give images of at least two classes")
    check_input(build_empty(name, classes, preprocess.channels), preprocess, name)


def _digest(dataset: Dataset) -> str:
    parts: list[bytes] = [json.dumps([dataset.name, dataset.labels]).encode()]
    for split in (dataset.train, dataset.test):
        parts += [split.labels.tobytes(), _content(split)]
    return digest_bytes(*parts)


def _content(split: Split) -> bytes:
    if isinstance(split.images, np.ndarray):
        return repr(split.images.shape).encode() + split.images.tobytes()
    # Decoding every picture would cost an epoch: names and sizes tell apart what people mix up.
    return json.dumps([[path.name, Path(path).stat().st_size] for path in split.images]).encode()
