"""Train a classifier on images and save a checkpoint that carries all that travels with it."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from engines.errors import DataError, InputError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.outputs import check_replace
from toolkit.steps.train_job import continued, prepare
from toolkit.training.cache import BUDGET
from toolkit.training.choices import Choices
from toolkit.training.report import TrainReport

if TYPE_CHECKING:
    from torch import nn

    from export.training import EpochFacts, TrainingResult, TrainingState
    from export.training.distributed import Group
    from export.training.transfer import Transfer
    from toolkit.qat import Quantised
    from toolkit.training.watch import Watch


def train(
    data: str | Path | None = None,
    output: str | Path = "model.pt",
    *,
    architecture: str | None = None,
    model: str | None = None,
    source: str | Path | None = None,
    qat: bool = False,
    recipe: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: str | None = None,
    crop_fraction: float | None = None,
    interpolation: str | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    resumable: bool = True,
    trust_pickle: bool = False,
    curves: bool = True,
    tensorboard: str | Path | None = None,
    cache: int = BUDGET,
    progress: Progress = QUIET,
    on_epoch: "Callable[[EpochFacts], None] | None" = None,
    say: Callable[[str], None] | None = None,
    **choices: Unpack[Choices],
) -> TrainReport:
    """Train a network, from scratch or from another checkpoint, and keep its best epoch.

    After every epoch the state is written to ``<output>.resume``, and removed when the training is done. The
    curves of loss, accuracy and learning rate are drawn into ``<output>.curves.png``.

    Started by ``torchrun`` in several processes, each takes its share of every batch on a GPU of its own, and the
    first one alone writes, and calls ``progress``, ``on_epoch`` and ``say``.

    Args:
        data: "digits" (the default), an image folder, a folder of IDX files, an ``.npz``; see
            :func:`toolkit.data.open_dataset`.
        output: the checkpoint to write.
        architecture: the registry's name; "alexnet" by default.
        model: instead of it a network of your own: ``file.py:Net``, ``package.module:factory``. The checkpoint names
            it, and needs the same to be loaded again.
        source: fine-tune this checkpoint. Architecture and preprocessing are its own, the labels those of the data;
            where they differ the head begins anew.
        qat: fine-tune with the rounding of the INT8 graph; the ranges are learned, and ``toolkit export`` writes them
            beside the graph. The accuracies are then those of the simulated INT8. Needs ``source``.
        recipe: "default" (the architecture's own), "paper", "modern", "qat"; a key of :data:`export.recipe.NAMED`.
        input_size: side, or (height, width), in pixels, where the network takes another than its usual one.
        channels, mean, std, resize, crop_fraction, interpolation: other fields of
            :class:`engines.preprocess.Preprocess`, instead of the network's usual ones or the source's.
        device: "auto", "cpu", "cuda:0".
        resume: go on with the unfinished training of ``output``. Options left out are that training's own; those
            given must be the same.
        force: replace an existing ``output``, and drop an unfinished training of it.
        resumable: False spares the state file (three times the size of the weights, after each epoch).
        trust_pickle: load a pickled ``nn.Module`` as ``source``, which runs code from the file.
        curves: whether to draw the picture; it takes 5 % of the time at most.
        tensorboard: a folder for TensorBoard's event files.
        cache: bytes of decoded pictures that are kept in memory, so that later epochs don't decode; a split is kept
            whole or not at all. The result doesn't depend on it.
        progress: told of every step.
        on_epoch: told of every finished epoch.
        say: told in a line of what was taken over, and of what isn't done.
        choices: numbers to use instead of the recipe's: fields of :class:`export.recipe.Recipe`.

    Raises:
        CheckpointError: the network doesn't take the input size, the source can't be loaded or has nothing to take
            over, or the state to resume is damaged.
        DataError: the data can't be used.
        InputError: a bad option, an output that exists, nothing to resume, or processes with different data.
        RunError: the training diverged, or another process of it ended.
        UnsupportedError: there is no such device, or the network can't be trained with ``qat``.
        TrainingInterrupted: Ctrl-C (a KeyboardInterrupt), after the best finished epoch was written to ``output``.
    """
    require("torch", "Training", "export")
    from export.evaluation import resolve_device
    from export.training.distributed import current, device_of
    from toolkit.training.signals import together

    group = current()
    if not group.leads:
        progress, on_epoch, say = QUIET, None, None
    device = device_of(group, device)
    resolve_device(device)
    output = Path(output)
    _check_folder(output)
    numbers: dict[str, Any] = dict(choices)
    log_interval = numbers.pop("log_interval", None)
    options: dict[str, Any] = {
        "data": None if data is None else str(data),
        "architecture": architecture,
        "model": model,
        "source": None if source is None else str(source),
        "qat": qat or None,
        "recipe": recipe,
        "input_size": (input_size, input_size) if isinstance(input_size, int) else input_size,
        "channels": channels,
        "mean": None if mean is None else tuple(mean),
        "std": None if std is None else tuple(std),
        "resize": resize,
        "crop_fraction": crop_fraction,
        "interpolation": interpolation,
        **numbers,
    }
    with together(group, device):
        run = _Training(output, options, log_interval, trust_pickle, group, device, progress, say or (lambda _: None))
        run.settle(resume=resume, force=force)
        folder = None if tensorboard is None else Path(tensorboard)
        return run.go(resumable=resumable, curves=curves, tensorboard=folder, cache=cache, on_epoch=on_epoch)


class _Training:
    """A training, from its options to its checkpoint."""

    def __init__(
        self,
        output: Path,
        options: dict[str, Any],
        log_interval: int | None,
        trust_pickle: bool,
        group: "Group",
        device: str,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        from export.resume import resume_path

        self.output, self.options, self.log_interval, self.trust_pickle = output, options, log_interval, trust_pickle
        self.group, self.device, self.progress, self.say = group, device, progress, say
        self.kept = resume_path(output)
        self.state: TrainingState | None = None

    def settle(self, *, resume: bool, force: bool) -> None:
        """Decide everything before anything runs, the same in all processes."""
        from export.resume import load_state
        from export.training.distributed import same_everywhere

        run: dict[str, Any] = {}
        if resume and force:
            raise InputError(
                "--resume goes on with an unfinished training, and --force drops it", "give one of the two"
            )
        if resume:
            if not self.kept.exists():
                raise InputError(f"there is no unfinished training of '{self.output}'", "train without --resume")
            self.state, run = load_state(self.kept)
            self.options = continued(run, self.options)
        elif self.kept.exists() and not force:
            raise InputError(
                f"an unfinished training of '{self.output}' is kept in '{self.kept.name}'",
                "give --resume to go on with it, or --force to drop it",
            )
        self.job, self.dataset, self.source = prepare(
            self.options, self.log_interval, self.progress, trust_pickle=self.trust_pickle
        )
        if self.state is not None and run["digest"] != self.job.digest():
            raise DataError(
                f"'{self.options['data'] or 'digits'}' or this version's recipe is not what the training began with",
                "train anew with --force instead of --resume",
            )
        if self.state is None:
            check_replace(self.output, self.job.digest(), self._digest_in, force=force)
        same_everywhere(self.job.digest(), self.group, "data or options")

    def go(
        self,
        *,
        resumable: bool,
        curves: bool,
        tensorboard: Path | None,
        cache: int,
        on_epoch: "Callable[[EpochFacts], None] | None",
    ) -> TrainReport:
        """Train, and write what came of it."""
        from export.resume import save_state
        from export.training import TrainingInterrupted
        from export.training import train as run_training
        from toolkit.training.feed import training_data

        job, leads = self.job, self.group.leads
        if tensorboard is not None and leads:
            from toolkit.training.board import check_folder

            check_folder(tensorboard)
        feed = training_data(self.dataset, job.preprocess, job.recipe, group=self.group, budget=cache)
        module, transfer = self._module()
        quantised = self._quantised(module) if job.qat else None
        with contextlib.ExitStack() as stack:
            watch = self._watch(curves=curves, tensorboard=tensorboard, on_epoch=on_epoch) if leads else None
            if watch:
                stack.callback(watch.close)

            def after_epoch(facts: "EpochFacts", now: "TrainingState") -> None:
                # Once all epochs are done there is nothing to go on with, but ten crops take their time.
                if resumable and leads and (now.epoch < job.recipe.epochs or job.recipe.ten_crop):
                    save_state(self.kept, now, job.to_json())
                if watch:
                    watch.epoch(facts, now)

            try:
                result = run_training(
                    module,
                    feed,
                    job.preprocess,
                    job.recipe,
                    device=self.device,
                    progress=watch.listener(self.progress) if watch else QUIET,
                    resume=self.state,
                    on_epoch=after_epoch,
                    group=self.group,
                )
            except TrainingInterrupted as stopped:
                if stopped.result is not None and leads:
                    self._save(module, stopped.result, quantised, transfer)
                raise
            metadata = self._save(module, result, quantised, transfer)
        if leads:
            self.kept.unlink(missing_ok=True)
        return TrainReport(
            self.output,
            metadata,
            job.recipe,
            result,
            len(self.dataset.train),
            len(self.dataset.test),
            watch.picture if watch else None,
            transfer,
            job.qat,
            self.group.rank,
            self.group.world,
        )

    def _module(self) -> "tuple[nn.Module, Transfer | None]":
        from toolkit.training.beginning import check_head_only, check_heard, check_whole, fresh, taken_over, told

        job = self.job
        module = fresh(job.architecture, job.model, len(job.labels), job.preprocess, job.recipe)
        check_heard(self.options, module, job.preprocess)
        if self.source is None:
            return module, None
        transfer = taken_over(module, self.source, job.labels, job.preprocess)
        if job.qat:
            check_whole(transfer)
        if job.recipe.freeze:
            check_head_only(transfer, module, job.preprocess)
        if self.state is None:
            self.say(told(transfer, self.options["source"]))
        return module, transfer

    def _quantised(self, module: "nn.Module") -> "Quantised":
        from toolkit.qat import prepare as prepare_qat

        metadata = ModelMetadata(self.job.architecture, self.job.labels, self.job.preprocess)
        return prepare_qat(module, metadata, self.dataset, seed=self.job.recipe.seed, progress=self.progress)

    def _watch(
        self, *, curves: bool, tensorboard: Path | None, on_epoch: "Callable[[EpochFacts], None] | None"
    ) -> "Watch":
        from toolkit.training.watch import Watch

        about = {"architecture": self.job.architecture, "data": self.dataset.name}
        about |= {name: self.options[name] for name in ("source", "qat") if self.options.get(name)}
        return Watch(
            self.output,
            f"{self.job.architecture} on {self.dataset.name}",
            self.job.recipe,
            about,
            images=len(self.dataset.train),
            begun=self.state,
            picture=curves,
            tensorboard=tensorboard,
            say=self.say,
            on_epoch=on_epoch,
        )

    def _save(
        self,
        module: "nn.Module",
        result: "TrainingResult",
        quantised: "Quantised | None",
        transfer: "Transfer | None",
    ) -> ModelMetadata:
        """Write the checkpoint; a process that doesn't lead only says what is in it."""
        from export.checkpoint import save_checkpoint
        from toolkit.qat import KEY

        job = self.job
        origin = {"training": job.digest(), "data": job.data_digest, "accuracy": f"{result.accuracy:.6f}"}
        if job.source:
            origin["source"] = job.source
        metadata = ModelMetadata(job.architecture, job.labels, job.preprocess, origin=origin)
        if not self.group.leads:
            if quantised:
                quantised.detach()
            return metadata
        record = {"recipe": job.recipe.to_json(), "options": dict(job.options), **result.to_json()}
        if transfer is not None:
            record["transfer"] = {"taken": len(transfer.taken), "anew": list(transfer.left)}
        if quantised is not None:
            record[KEY] = quantised.finish(self.progress)
        digest = save_checkpoint(self.output, module, metadata, training=record)
        return metadata.with_origin(weights=digest)

    def _digest_in(self, path: Path) -> str | None:
        from export.checkpoint import load_checkpoint

        return load_checkpoint(path, model=self.job.model).metadata.origin.get("training")


def _check_folder(output: Path) -> None:
    """A training shouldn't find out at its end that there is nowhere to write."""
    if output.is_dir():
        raise InputError(f"'{output}' is a folder", "give the name of a file as --output")
    if not output.parent.is_dir():
        raise InputError(f"the folder '{output.parent}' does not exist", "make it, or choose another --output")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"the folder '{output.parent}' is not writable", "choose another --output")
