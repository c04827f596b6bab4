"""How a network is trained: the numbers, checked, and one set of defaults an architecture. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from engines.errors import InputError
from engines.files import digest_bytes

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Initialisation = Literal["own", "kaiming"]

OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "adamw", "sgd")
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")
INITIALISATIONS: tuple[Initialisation, ...] = ("own", "kaiming")


@dataclass(frozen=True)
class Recipe:
    """A training run's numbers. The defaults learn from scratch on small data in few steps.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        optimizer: "adam", "adamw" (decoupled weight decay) or "sgd" (with momentum).
        learning_rate: the largest of the run.
        weight_decay: L2 coefficient; decoupled with adamw.
        momentum: of sgd.
        schedule: "cosine" falls to zero along half a cosine; "constant" stays.
        warmup: share of the run in which the learning rate rises linearly from zero.
        dropout: what dropout layers drop while training, instead of what the network has; None leaves that.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
        shift: augmentation: every training image is moved by up to this share of its height and width, its edge
            repeated. It holds for digits as for photographs; mirroring doesn't.
        initialisation: "own" is what the network's class does; "kaiming" overrides it with
            :func:`export.models.alexnet.initialise_kaiming`.
        precision: "bf16" computes convolutions and products in bfloat16 (autocast) and keeps FP32 weights;
            "auto" takes it where the hardware has it.
        seed: of initialisation, order, shifts and dropout.
        log_interval: steps between two reports of loss and accuracy.
    """

    epochs: int = 3
    batch_size: int = 16
    optimizer: Optimizer = "adam"
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    dropout: float | None = 0.2
    label_smoothing: float = 0.1
    shift: float = 0.05
    initialisation: Initialisation = "own"
    precision: Precision = "auto"
    seed: int = 0
    log_interval: int = 10

    def __post_init__(self) -> None:
        """Reject numbers that can't train."""
        problem = next((text for bad, text in self._problems() if bad), None)
        if problem:
            raise InputError(f"bad training option: {problem}", "see `toolkit train --help`")

    def _problems(self) -> list[tuple[bool, str]]:
        def positive(value: float) -> bool:
            return math.isfinite(value) and value > 0

        return [
            (self.epochs < 1, f"{self.epochs} epochs; at least 1"),
            (self.batch_size < 1, f"a batch size of {self.batch_size}; at least 1"),
            (self.log_interval < 1, f"a log interval of {self.log_interval}; at least 1"),
            (not positive(self.learning_rate), f"a learning rate of {self.learning_rate}; must be positive"),
            (not 0 <= self.weight_decay < 1, f"a weight decay of {self.weight_decay}; must be in [0, 1)"),
            (not 0 <= self.momentum < 1, f"a momentum of {self.momentum}; must be in [0, 1)"),
            (not 0 <= self.warmup < 1, f"a warm-up of {self.warmup} of the run; must be in [0, 1)"),
            (not 0 <= (self.dropout or 0) < 1, f"a dropout of {self.dropout}; must be in [0, 1)"),
            (not 0 <= self.label_smoothing < 1, f"a label smoothing of {self.label_smoothing}; must be in [0, 1)"),
            (not 0 <= self.shift < 0.5, f"a shift of {self.shift} of the image; must be in [0, 0.5)"),
            (not 0 <= self.seed < 2**32, f"a seed of {self.seed}; must be in 0..{2**32 - 1}"),
            (self.optimizer not in OPTIMIZERS, f"optimizer '{self.optimizer}'; known are {', '.join(OPTIMIZERS)}"),
            (self.schedule not in SCHEDULES, f"schedule '{self.schedule}'; known are {', '.join(SCHEDULES)}"),
            (
                self.initialisation not in INITIALISATIONS,
                f"initialisation '{self.initialisation}'; known are {', '.join(INITIALISATIONS)}",
            ),
            (self.precision not in PRECISIONS, f"precision '{self.precision}'; known are {', '.join(PRECISIONS)}"),
        ]

    def rate(self, done: float) -> float:
        """The learning rate after the share ``done`` (0 to 1) of the run's images."""
        if done < self.warmup:
            return self.learning_rate * done / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recipe":
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: fields are unknown, or their values can't train.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError(f"the training recipe is damaged: {error}", "train again with --force") from error

    def digest(self) -> str:
        """A digest of everything that shapes the result; the log interval doesn't."""
        facts = {key: value for key, value in self.to_json().items() if key != "log_interval"}
        return digest_bytes(repr(sorted(facts.items())).encode())


RECIPES: Mapping[str, Recipe] = {
    # From the paper's N(0, 0.01²) with biases of 1 the signal of an image all but vanishes on its way to the
    # logits: on the digits the network was still at chance after 48 steps, long before which Kaiming's learns.
    "alexnet-2012": Recipe(initialisation="kaiming"),
}
"""Defaults of the architectures that have their own; :class:`Recipe`'s serve the others."""


def recipe_for(architecture: str, **choices: Any) -> Recipe:
    """The recipe of an architecture with some numbers chosen otherwise; None leaves the default.

    Raises:
        InputError: a choice can't train.
    """
    return replace(RECIPES.get(architecture, Recipe()), **{k: v for k, v in choices.items() if v is not None})
