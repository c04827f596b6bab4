"""Train a classifier on images and save a checkpoint that carries all that travels with it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import DataError, InputError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from export.recipe import Recipe
from toolkit.outputs import check_replace
from toolkit.steps.train_job import Job, continued, prepare, training_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from export.training import EpochFacts, TrainingResult, TrainingState


@dataclass(frozen=True)
class TrainReport:
    """What a training came to.

    Attributes:
        checkpoint: the file that was written.
        metadata: what it carries.
        recipe: the numbers it was trained with.
        result: history, best epoch, FP32 accuracy on the test split, seconds, precision, device.
        train_images, test_images: sizes of the two splits.
    """

    checkpoint: Path
    metadata: ModelMetadata
    recipe: Recipe
    result: "TrainingResult"
    train_images: int
    test_images: int

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "metadata": self.metadata.to_json(),
            "recipe": self.recipe.to_json(),
            "train_images": self.train_images,
            "test_images": self.test_images,
            **self.result.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        history, result = self.result.history, self.result
        return (
            f"{self.checkpoint}: {self.metadata.architecture}, {len(self.metadata.labels)} classes, "
            f"{100 * result.accuracy:.2f} % of {self.test_images} test images right "
            f"(epoch {result.best_epoch} of {len(history)}), {result.seconds:.0f} s on {result.device}"
        )


def train(
    data: str | Path | None = None,
    output: str | Path = "model.pt",
    *,
    architecture: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    log_interval: int | None = None,
    resume: bool = False,
    input_size: int | tuple[int, int] | None = None,
    precision: str | None = None,
    force: bool = False,
    resumable: bool = True,
    progress: Progress = QUIET,
    on_epoch: "Callable[[EpochFacts], None] | None" = None,
) -> TrainReport:
    """Train a network of the registry from scratch and keep its best epoch.

    After every epoch the state is written to ``<output>.resume``, and removed when the training is done.

    Args:
        data: "digits" (the default), an image folder, a folder of IDX files, an ``.npz``.
        output: the checkpoint to write.
        architecture: the registry's name; "alexnet" by default.
        epochs, batch_size, learning_rate, optimizer, precision: instead of the architecture's recipe.
        seed: of everything random; the split of the data doesn't depend on it. 0 by default.
        device: "auto", "cpu", "cuda:0".
        log_interval: steps between two reports of loss and accuracy.
        resume: go on with the unfinished training of ``output``. Options left out are that training's own.
        input_size: side, or (height, width), in pixels, where the network takes another than its usual one.
        force: replace an existing ``output``, and drop an unfinished training of it.
        resumable: False spares the state file (three times the size of the weights, after each epoch).
        progress: told of every step.
        on_epoch: told of every finished epoch.

    Raises:
        CheckpointError: the network doesn't take the input size, or the state to resume is damaged.
        DataError: the data can't be used.
        InputError: a bad option, an output that exists, or nothing to resume.
        RunError: the training diverged.
        UnsupportedError: there is no such device.
        TrainingInterrupted: Ctrl-C (a KeyboardInterrupt), after the best finished epoch was written to ``output``.
    """
    require("torch", "Training", "export")
    from export.evaluation import resolve_device
    from export.resume import load_state, resume_path, save_state
    from export.training import TrainingInterrupted, initialised
    from export.training import train as run_training

    output = Path(output)
    kept = resume_path(output)
    _check_folder(output)
    resolve_device(device)
    options: dict[str, Any] = {
        "data": None if data is None else str(data),
        "architecture": architecture,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "seed": seed,
        "precision": precision,
        "input_size": (input_size, input_size) if isinstance(input_size, int) else input_size,
    }
    state: TrainingState | None = None
    if resume:
        if not kept.exists():
            raise InputError(f"there is no unfinished training of '{output}'", "train without --resume")
        state, run = load_state(kept)
        options = continued(run, options)
    elif kept.exists() and not force:
        raise InputError(
            f"an unfinished training of '{output}' is kept in '{kept.name}'",
            "give --resume to go on with it, or --force to drop it",
        )
    job, dataset = prepare(options, log_interval, progress)
    if state is not None and run["digest"] != job.digest():
        raise DataError(
            f"'{options['data'] or 'digits'}' or this version's recipe is not what the training began with",
            "train anew with --force instead of --resume",
        )
    if state is None:
        check_replace(output, job.digest(), _origin_of, force=force)
    module = initialised(job.architecture, len(job.labels), job.preprocess.channels, job.recipe)

    def after_epoch(facts: "EpochFacts", now: "TrainingState") -> None:
        if resumable and now.epoch < job.recipe.epochs:
            save_state(kept, now, job.to_json())
        if on_epoch:
            on_epoch(facts)

    try:
        result = run_training(
            module,
            training_data(dataset, job),
            job.preprocess,
            job.recipe,
            device=device,
            progress=progress,
            resume=state,
            on_epoch=after_epoch,
        )
    except TrainingInterrupted as stopped:
        if stopped.result is not None:
            _save(output, module, job, stopped.result)
        raise
    metadata = _save(output, module, job, result)
    kept.unlink(missing_ok=True)
    return TrainReport(output, metadata, job.recipe, result, len(dataset.train), len(dataset.test))


def _save(output: Path, module: "nn.Module", job: Job, result: "TrainingResult") -> ModelMetadata:
    from export.checkpoint import save_checkpoint

    origin = {"training": job.digest(), "data": job.data_digest, "accuracy": f"{result.accuracy:.6f}"}
    metadata = ModelMetadata(job.architecture, job.labels, job.preprocess, origin=origin)
    record = {"recipe": job.recipe.to_json(), "options": dict(job.options), **result.to_json()}
    digest = save_checkpoint(output, module, metadata, training=record)
    return metadata.with_origin(weights=digest)


def _origin_of(path: Path) -> str | None:
    from export.checkpoint import load_checkpoint

    return load_checkpoint(path).metadata.origin.get("training")


def _check_folder(output: Path) -> None:
    """A training shouldn't find out at its end that there is nowhere to write."""
    if not output.parent.is_dir():
        raise InputError(f"the folder '{output.parent}' does not exist", "make it, or choose another --output")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"the folder '{output.parent}' is not writable", "choose another --output")
