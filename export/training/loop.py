"""Training: one loop that reads top to bottom.

The data come in as iterables of uint8 pixels; the network sees them through the preprocessing that
will travel with it. Everything random in an epoch is drawn from ``(seed, epoch)``, so a run that was
interrupted and resumed gives bit for bit what the uninterrupted one gives on the same CPU.

Several processes give what one gives, up to the order of sums, and but for two things: dropout, which each draws for
itself, and batch norm on CPUs, which sees each process's share only (on CUDA it sees the whole batch).
A last batch that would leave a process without an image, or batch norm with a single one, is left out.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines.errors import CheckpointError, DataError, InputError, RunError
from engines.preprocess import Preprocess
from engines.progress import QUIET, Progress
from export.evaluation import Batch, autocast, normalise, resolve_device, resolve_precision, tally, tally_ten_crops
from export.recipe import Recipe
from export.state_dicts import State
from export.training.averaging import Averaged
from export.training.colours import colour_axes
from export.training.data import TrainingData
from export.training.distributed import ALONE, Group, settle, total, wrap
from export.training.facts import EpochFacts, TrainingInterrupted, TrainingResult, TrainingState, best_epoch
from export.training.loader import staged
from export.training.mixing import mixed, mixed_loss, mixed_right
from export.training.modules import compiled, compiler_errors, dropping, frozen_to_head, to_train
from export.training.optimizers import optimizer_for
from export.training.pictures import augmented, batch_sizes, smallest_share
from export.training.schedules import adjust, scale_of

_Item = TypeVar("_Item")


def train(
    module: nn.Module,
    data: TrainingData,
    preprocess: Preprocess,
    recipe: Recipe,
    *,
    device: str = "auto",
    progress: Progress = QUIET,
    resume: TrainingState | None = None,
    on_epoch: Callable[[EpochFacts, TrainingState], None] | None = None,
    group: Group = ALONE,
) -> TrainingResult:
    """Train ``module`` in place and leave it with its best weights, in eval mode, on the CPU.

    Args:
        module: an initialised classifier, float32 [N, C, H, W] -> logits [N, classes]; while it trains it may give a
            tuple, of which the others are logits of auxiliary heads.
        data: the batches.
        preprocess: normalisation of the pixels, and the size that the network takes.
        recipe: the numbers.
        device: "auto" (CUDA where there is one), "cpu", "cuda:0".
        progress: told of every step, with loss, accuracy and epoch as facts.
        resume: go on after this state, which was saved under the same recipe and data.
        on_epoch: called after each epoch, to save the state and to print the facts.
        group: this process among those that train together, which have met
            (:func:`export.training.distributed.joined`).

    Raises:
        DataError: there are no images, or they don't suit the recipe.
        RunError: the loss is no longer finite.
        UnsupportedError: there is no such device, or the network can't be compiled.
        TrainingInterrupted: Ctrl-C, after the best finished epoch was put back into ``module``.
    """
    if not data.train_size or not data.test_size:
        raise DataError(
            f"{data.train_size} images to train on and {data.test_size} to test on", "give a data set with both"
        )
    if recipe.ten_crop and data.test_frames is None:
        raise DataError("ten crops need test pictures that are larger than the network's input", "give test_frames")
    target = resolve_device(device)
    precision = resolve_precision(recipe.precision, target)
    remaining = recipe.epochs - (resume.epoch if resume else 0)
    forked = torch.random.fork_rng(devices=[target] if target.type == "cuda" else [])
    frozen = frozen_to_head(module, recipe.freeze, preprocess)
    with forked, _reproducible_kernels(), dropping(module, recipe.dropout), frozen:
        run = _Run(module, data, preprocess, recipe, target, precision, progress, group)
        run.begin(resume)
        progress.begin("training", remaining * (data.train_size + data.test_size), "images")
        try:
            try:
                for epoch in range(recipe.epochs - remaining, recipe.epochs):
                    facts = run.epoch(epoch)
                    if on_epoch:
                        on_epoch(facts, run.state())
            finally:
                progress.end()
            return run.finish()
        except KeyboardInterrupt:
            raise TrainingInterrupted(run.finish(measure=False) if run.history else None) from None


@dataclass
class _Run:
    """A training under way."""

    module: nn.Module
    data: TrainingData
    preprocess: Preprocess
    recipe: Recipe
    device: torch.device
    precision: str
    progress: Progress
    group: Group
    history: list[EpochFacts] = field(default_factory=list)
    best: State = field(default_factory=dict)
    averaged: Averaged | None = None
    axes: NDArray[np.float64] | None = None
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        made = compiled(self.module) if self.recipe.compile else self.module
        self.forward = wrap(made, self.group, self.device)
        self.optimizer = optimizer_for(self.module, self.recipe)

    def begin(self, state: TrainingState | None) -> None:
        """Settle what a run has from its first step to its last."""
        if state:
            try:
                self.module.load_state_dict(state.model)
                self.optimizer.load_state_dict(state.optimizer)
            except (RuntimeError, ValueError, KeyError) as error:
                raise CheckpointError(
                    "the state to resume is of another network: it doesn't fit this one's tensors",
                    "train the network that it began with, or anew with --force instead of --resume",
                ) from error
            self.best = {key: value.to(self.device) for key, value in state.best.items()}
            self.history = list(state.history)
        if self.recipe.ema:
            self.averaged = Averaged(self.module, self.recipe.ema)
            if state:
                self.averaged.restore(_kept(state.averaged, "moving average"), state.averaged_steps)
        if self.recipe.pca_jitter:
            if state:
                self.axes = _kept(state.colours, "principal axes of the colours").numpy()
            else:
                channels = self.preprocess.channels
                self.axes = colour_axes(
                    self.data,
                    channels,
                    self.recipe,
                    group=self.group,
                    device=self.device,
                    progress=self.progress,
                )

    def epoch(self, epoch: int) -> EpochFacts:
        """One pass over the training images and one over the test images."""
        start = time.monotonic()
        train_loss, train_accuracy, rate, waited = self.train_pass(epoch)
        settle(self.module, self.group)
        if self.averaged:
            self.averaged.settle(self.module, self.group)
        with self.tested():
            loss, accuracy = self.test(self.precision, self.progress)
            _finite(loss, epoch)  # the last step may be the one that went too far
            seconds = time.monotonic() - start
            facts = EpochFacts(
                epoch + 1, train_loss, train_accuracy, loss, accuracy, seconds, rate, waited / max(seconds, 1e-9)
            )
            # The weights before the record: a Ctrl-C between the two must not leave a best epoch without its weights.
            if best_epoch([*self.history, facts]) == facts:
                self.best = {key: value.detach().clone() for key, value in self.module.state_dict().items()}
        self.history.append(facts)
        self.progress.advance(0, epoch=f"{epoch + 1}/{self.recipe.epochs}", test=accuracy)
        return facts

    def train_pass(self, epoch: int) -> tuple[float, float, float, float]:
        """Mean loss and accuracy of the epoch's steps, its last learning rate, and the seconds it waited."""
        rng = np.random.default_rng((self.recipe.seed, epoch))
        torch.manual_seed(int(rng.integers(2**62)) + self.group.rank)
        least = 2 if to_train(self.module, self.recipe.freeze) else 1
        if smallest_share(min(self.recipe.batch_size, self.data.train_size), self.group) < least:
            raise InputError(
                f"batches of {self.recipe.batch_size} leave a process with fewer than {least} images"
                f"{', of which batch norm makes no statistics' * (least > 1)}",
                "give a larger --batch-size",
            )
        scale = scale_of(self.history, self.recipe)
        batches = augmented(self.data, self.preprocess, self.recipe, epoch, rng, self.axes, self.group)
        sizes = batch_sizes(self.data, self.recipe)
        begun = seen = own = 0
        rate, waiting = 0.0, _Stopwatch()
        sums = torch.zeros(2, device=self.device)
        with contextlib.closing(staged(batches, self.device)) as source:
            for step, (pixels, labels, offsets, mixture) in enumerate(waiting.each(source)):
                count = len(labels) if self.group.world == 1 else next(sizes)
                done = (epoch + min(begun / self.data.train_size, 1)) / self.recipe.epochs
                begun += count
                if smallest_share(count, self.group) < least:
                    self.progress.advance(count)
                    continue
                rate = adjust(self.optimizer, self.recipe, done, scale)
                loss, right = self.step(pixels, labels, offsets, mixture, count)
                seen, own = seen + count, own + len(labels)
                sums += torch.stack([loss * len(labels), right])
                facts: dict[str, object] = {}
                if step % self.recipe.log_interval == 0:
                    facts = {"epoch": f"{epoch + 1}/{self.recipe.epochs}", "loss": _finite(loss, epoch)}
                    facts |= {"accuracy": float(sums[1]) / own, "learning_rate": rate}
                self.progress.advance(count, **facts)
        if not seen:
            raise DataError(f"epoch {epoch + 1} has no images", "give a data set with training images")
        sums = total(sums, self.group)
        return _finite(sums[0], epoch) / seen, float(sums[1]) / seen, rate, waiting.seconds

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, offsets: torch.Tensor, mixture: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer.

        Args:
            pixels, labels, offsets, mixture: this process's, from :func:`export.training.pictures.augmented`.
            count: images of the whole batch.

        Returns:
            Mean loss of the main head, and how many of the process's images are right, on the device.
        """
        recipe = self.recipe
        x = normalise(pixels, self.preprocess, self.device, offsets=offsets if offsets.numel() else None)
        share = mixture if mixture.numel() else None
        x = x if share is None else mixed(x, share)
        with compiler_errors(recipe.compile):
            with autocast(self.device, self.precision):
                answer = self.forward(x)
            logits, *others = answer if isinstance(answer, tuple) else (answer,)
            loss = whole = mixed_loss(logits, labels, share, recipe.label_smoothing)
            for other in () if recipe.freeze else others:  # frozen, auxiliary heads have nothing to learn
                whole = whole + recipe.aux_weight * mixed_loss(other, labels, share, recipe.label_smoothing)
            if self.group.world > 1:  # the mean over the processes of this is the whole batch's mean
                whole = whole * (len(labels) * self.group.world / count)
            self.optimizer.zero_grad(set_to_none=True)
            whole.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.optimizer.step()
        if self.averaged:
            self.averaged.update(self.module)
        with torch.no_grad():
            return loss.detach(), mixed_right(logits, labels, share).float()

    def tested(self) -> contextlib.AbstractContextManager[None]:
        """The weights that are tested and kept, in the module for the while."""
        return self.averaged.held_by(self.module) if self.averaged else contextlib.nullcontext()

    def test(self, precision: str, progress: Progress) -> tuple[float, float]:
        """Mean loss and accuracy on the test split."""
        loss, right, seen = self.total(
            *tally(
                self.module,
                self.data.test(),
                self.preprocess,
                self.device,
                precision=precision,
                progress=progress,
                parts=self.group.world,
            )
        )
        if not seen:
            raise DataError("there are no images to evaluate on", "give a data set with test images")
        return loss / seen, right / seen

    def test_ten_crops(self, frames: Iterable[Batch]) -> float:
        """Accuracy over ten crops of each test image."""
        self.progress.begin("testing ten crops", self.data.test_size, "images")
        try:
            parts = self.group.world
            counts = tally_ten_crops(
                self.module, frames, self.preprocess, self.device, progress=self.progress, parts=parts
            )
        finally:
            self.progress.end()
        right, seen = self.total(*counts)
        return right / seen

    def total(self, *values: float) -> list[float]:
        """The sums over all processes."""
        return total(torch.tensor(values, dtype=torch.float64, device=self.device), self.group).tolist()

    def state(self) -> TrainingState:
        return TrainingState(
            len(self.history),
            dict(self.module.state_dict()),
            self.optimizer.state_dict(),
            self.best,
            tuple(self.history),
            self.averaged.state if self.averaged else None,
            self.averaged.steps if self.averaged else 0,
            None if self.axes is None else torch.from_numpy(self.axes),
        )

    def finish(self, *, measure: bool = True) -> TrainingResult:
        """Put the best weights back and measure them as they will be stored; after Ctrl-C nobody waits for that."""
        self.module.load_state_dict(self.best)
        accuracy, ten_crops = best_epoch(self.history).test_accuracy, None
        if measure:
            _, accuracy = self.test("fp32", QUIET)
        if measure and self.recipe.ten_crop and self.data.test_frames:
            ten_crops = self.test_ten_crops(self.data.test_frames())
        self.module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return TrainingResult(
            tuple(self.history),
            best_epoch(self.history).epoch,
            accuracy,
            time.monotonic() - self.start,
            self.precision,
            str(self.device),
            ten_crops,
        )


class _Stopwatch:
    """How long one waits for the next of something."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def each(self, source: Iterator[_Item]) -> Iterator[_Item]:
        while True:
            start = time.monotonic()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - start
            yield item


def _kept(value: State | torch.Tensor | None, what: str) -> Any:
    if value is None:
        raise CheckpointError(f"the state to resume has no {what}", "train anew with --force instead of --resume")
    return value


def _finite(loss: torch.Tensor | float, epoch: int) -> float:
    value = float(loss)
    if not np.isfinite(value):
        raise RunError(
            f"the loss became {value} in epoch {epoch + 1}", "lower --learning-rate, or use --precision fp32"
        )
    return value


def _reproducible_kernels() -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
