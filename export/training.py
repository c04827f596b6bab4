"""Training: one loop that reads top to bottom.

The data come in as iterables of uint8 pixels; the network sees them through the preprocessing that
will travel with it. Everything random in an epoch is drawn from ``(seed, epoch)``, so a run that was
interrupted and resumed gives bit for bit what the uninterrupted one gives on the same CPU.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import nn

from engines.errors import DataError, RunError
from engines.preprocess import Preprocess
from engines.progress import QUIET, Progress
from export.augment import shifted
from export.evaluation import Batch, autocast, evaluate, normalise, resolve_device, resolve_precision
from export.models.alexnet import initialise_kaiming
from export.models.registry import build
from export.recipe import Recipe
from export.state_dicts import State


@dataclass(frozen=True)
class TrainingData:
    """Where batches come from: pixels uint8 [N, height, width, channels] and labels int64 [N].

    Attributes:
        train: (epoch counted from 0, the epoch's own generator) -> its batches, shuffled with the generator.
        test: -> the batches of the test split, in order.
        train_size: images an epoch.
        test_size: images in the test split.
    """

    train: Callable[[int, np.random.Generator], Iterable[Batch]]
    test: Callable[[], Iterable[Batch]]
    train_size: int
    test_size: int


@dataclass(frozen=True)
class EpochFacts:
    """What one epoch came to; accuracies are shares, 0 to 1.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy: means over the epoch's steps, with dropout, shifts and label smoothing on.
        test_loss, test_accuracy: after the epoch, in the precision of the training.
        seconds: wall-clock time, test included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainingState:
    """All that is needed to go on after an epoch. Tensors are the live ones: save them before training goes on.

    Attributes:
        epoch: how many are finished.
        model: the weights now.
        optimizer: its ``state_dict()``.
        best: the weights of the best epoch.
        history: facts of the finished epochs.
    """

    epoch: int
    model: State
    optimizer: dict[str, Any]
    best: State
    history: tuple[EpochFacts, ...]


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to. The module then holds the weights of the best epoch.

    Attributes:
        history: facts of every epoch.
        best_epoch: counted from 1; see :func:`best_epoch`.
        accuracy: top-1 on the test split of the best epoch, computed in FP32 as the checkpoint stores it (after
            an interruption: as the history has it). As the epoch was chosen on that split, it is a little
            optimistic about unseen data.
        seconds: wall-clock time of the training, this process only.
        precision: "fp32" or "bf16": what "auto" came to.
        device: "cpu" or "cuda:0".
    """

    history: tuple[EpochFacts, ...]
    best_epoch: int
    accuracy: float
    seconds: float
    precision: str
    device: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"history": [asdict(facts) for facts in self.history]}


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during a training; the module holds the best finished epoch when ``result`` isn't None."""

    def __init__(self, result: TrainingResult | None) -> None:
        super().__init__()
        self.result = result


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
) -> TrainingResult:
    """Train ``module`` in place and leave it with its best weights, in eval mode, on the CPU.

    Args:
        module: an initialised classifier, float32 [N, C, H, W] -> logits [N, classes].
        data: the batches.
        preprocess: normalisation of the pixels.
        recipe: the numbers.
        device: "auto" (CUDA where there is one), "cpu", "cuda:0".
        progress: told of every step, with loss, accuracy and epoch as facts.
        resume: go on after this state, which was saved under the same recipe and data.
        on_epoch: called after each epoch, to save the state and to print the facts.

    Raises:
        DataError: there are no images.
        RunError: the loss is no longer finite.
        UnsupportedError: there is no such device.
        TrainingInterrupted: Ctrl-C, after the best finished epoch was put back into ``module``.
    """
    if not data.train_size or not data.test_size:
        raise DataError(
            f"{data.train_size} images to train on and {data.test_size} to test on", "give a data set with both"
        )
    target = resolve_device(device)
    precision = resolve_precision(recipe.precision, target)
    run = _Run(module, data, preprocess, recipe, target, precision, progress)
    remaining = recipe.epochs - (resume.epoch if resume else 0)
    forked = torch.random.fork_rng(devices=[target] if target.type == "cuda" else [])
    with forked, _reproducible_kernels(), _dropout(module, recipe.dropout):
        if resume:
            run.restore(resume)
        progress.begin("training", remaining * (data.train_size + data.test_size), "images")
        try:
            for epoch in range(recipe.epochs - remaining, recipe.epochs):
                facts = run.epoch(epoch)
                if on_epoch:
                    on_epoch(facts, run.state())
        except KeyboardInterrupt:
            raise TrainingInterrupted(run.finish(measure=False) if run.history else None) from None
        finally:
            progress.end()
        return run.finish()


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
    history: list[EpochFacts] = field(default_factory=list)
    best: State = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.module, self.recipe)

    def epoch(self, epoch: int) -> EpochFacts:
        """One pass over the training images and one over the test images."""
        start = time.monotonic()
        train_loss, train_accuracy = self.train_pass(epoch)
        loss, accuracy = evaluate(
            self.module,
            self.data.test(),
            self.preprocess,
            self.device,
            precision=self.precision,
            progress=self.progress,
        )
        facts = EpochFacts(epoch + 1, train_loss, train_accuracy, loss, accuracy, time.monotonic() - start)
        # The weights before the record: a Ctrl-C between the two must not leave a best epoch without its weights.
        if best_epoch([*self.history, facts]) == facts:
            self.best = {key: value.detach().clone() for key, value in self.module.state_dict().items()}
        self.history.append(facts)
        self.progress.advance(0, epoch=f"{epoch + 1}/{self.recipe.epochs}", test=accuracy)
        return facts

    def train_pass(self, epoch: int) -> tuple[float, float]:
        """Mean loss and accuracy of the epoch's steps."""
        rng = np.random.default_rng((self.recipe.seed, epoch))
        torch.manual_seed(int(rng.integers(2**62)))
        self.module.train()
        seen, loss_sum, right = 0, torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for step, (pixels, labels) in enumerate(self.data.train(epoch, rng)):
            done = (epoch + min(seen / self.data.train_size, 1)) / self.recipe.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(done)
            x = normalise(shifted(pixels, self.recipe.shift, rng), self.preprocess, self.device)
            y = torch.from_numpy(labels).to(self.device)
            with autocast(self.device, self.precision):
                logits = self.module(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            seen += len(labels)
            with torch.no_grad():
                loss_sum += loss.detach() * len(labels)
                right += (logits.argmax(1) == y).sum()
            facts: dict[str, object] = {}
            if step % self.recipe.log_interval == 0:
                facts = {"epoch": f"{epoch + 1}/{self.recipe.epochs}", "loss": _finite(loss, epoch)}
                facts["accuracy"] = float(right) / seen
            self.progress.advance(len(labels), **facts)
        if not seen:
            raise DataError(f"epoch {epoch + 1} has no images", "give a data set with training images")
        return _finite(loss_sum, epoch) / seen, float(right) / seen

    def restore(self, state: TrainingState) -> None:
        self.module.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.best = {key: value.to(self.device) for key, value in state.best.items()}
        self.history = list(state.history)

    def state(self) -> TrainingState:
        return TrainingState(
            len(self.history),
            dict(self.module.state_dict()),
            self.optimizer.state_dict(),
            self.best,
            tuple(self.history),
        )

    def finish(self, *, measure: bool = True) -> TrainingResult:
        """Put the best weights back and measure them as they will be stored; after Ctrl-C nobody waits for that."""
        self.module.load_state_dict(self.best)
        accuracy = best_epoch(self.history).test_accuracy
        if measure:
            _, accuracy = evaluate(self.module, self.data.test(), self.preprocess, self.device)
        self.module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return TrainingResult(
            tuple(self.history),
            best_epoch(self.history).epoch,
            accuracy,
            time.monotonic() - self.start,
            self.precision,
            str(self.device),
        )


def initialised(name: str, classes: int, channels: int, recipe: Recipe) -> nn.Module:
    """A network of the registry with weights drawn from the recipe's seed; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = build(name, classes, channels)
        if recipe.initialisation == "kaiming":
            initialise_kaiming(module)
        return module


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    # The fused kernels pass once over weights and moments: half the time for a network of large linear layers.
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), momentum=recipe.momentum, **common)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), **common)


@contextlib.contextmanager
def _dropout(module: nn.Module, share: float | None) -> Iterator[None]:
    """Let the module's dropout layers drop ``share`` for the while."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout) and share is not None]
    usual = [layer.p for layer in layers]
    for layer in layers:
        layer.p = share or 0.0
    try:
        yield
    finally:
        for layer, p in zip(layers, usual, strict=True):
            layer.p = p


def best_epoch(history: Iterable[EpochFacts]) -> EpochFacts:
    """The epoch of the highest test accuracy, of equals the lowest test loss."""
    return max(history, key=lambda facts: (facts.test_accuracy, -facts.test_loss))


def _finite(loss: torch.Tensor, epoch: int) -> float:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise RunError(
            f"the loss became {value} in epoch {epoch + 1}", "lower --learning-rate, or use --precision fp32"
        )
    return value


def _reproducible_kernels() -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
