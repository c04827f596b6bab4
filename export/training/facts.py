"""What a training came to, epoch by epoch and as a whole, and what it needs to go on."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from export.state_dicts import State


@dataclass(frozen=True)
class EpochFacts:
    """What one epoch came to; accuracies are shares, 0 to 1.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy: means over the epoch's steps, with dropout, shifts and label smoothing on.
        test_loss, test_accuracy: after the epoch, in the precision of the training.
        seconds: wall-clock time, test included.
        learning_rate: of the epoch's last step; 0 where a version recorded none.
        waited: share of the seconds in which the training waited for pictures; equality ignores it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    learning_rate: float = 0.0
    waited: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class TrainingState:
    """All that is needed to go on after an epoch. Tensors are the live ones: save them before training goes on.

    Attributes:
        epoch: how many are finished.
        model: the weights now.
        optimizer: its ``state_dict()``.
        best: the weights of the best epoch.
        history: facts of the finished epochs, from which a plateau is known too.
        averaged: the moving average of the weights, where the recipe has one; ``best`` is then of these.
        averaged_steps: how many steps it took in.
        colours: float64 [channels, channels], what :func:`export.training.colours.colour_axes` found, where it
            was asked.
    """

    epoch: int
    model: State
    optimizer: dict[str, Any]
    best: State
    history: tuple[EpochFacts, ...]
    averaged: State | None = None
    averaged_steps: int = 0
    colours: torch.Tensor | None = None

    @property
    def tested(self) -> State:
        """The weights that the last epoch was tested with."""
        return self.model if self.averaged is None else self.averaged


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
        ten_crop_accuracy: as ``accuracy``, over ten crops of each image; None where the recipe doesn't ask, and after
            an interruption.
    """

    history: tuple[EpochFacts, ...]
    best_epoch: int
    accuracy: float
    seconds: float
    precision: str
    device: str
    ten_crop_accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"history": [asdict(facts) for facts in self.history]}


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during a training; the module holds the best finished epoch when ``result`` isn't None."""

    def __init__(self, result: TrainingResult | None) -> None:
        super().__init__()
        self.result = result


def best_epoch(history: Iterable[EpochFacts]) -> EpochFacts:
    """The epoch of the highest test accuracy, of equals the lowest test loss."""
    return max(history, key=lambda facts: (facts.test_accuracy, -facts.test_loss))
