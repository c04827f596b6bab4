"""How a network is trained: the numbers, checked, and named sets of them. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from engines.errors import InputError
from engines.files import digest_bytes

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine", "one-cycle", "plateau"]
Precision = Literal["auto", "fp32", "bf16"]
Initialisation = Literal["own", "kaiming"]

OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "adamw", "sgd")
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "one-cycle", "plateau")
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")
INITIALISATIONS: tuple[Initialisation, ...] = ("own", "kaiming")

ONE_CYCLE_START = 25.0
"""One-cycle begins at the learning rate divided by this (``div_factor`` of torch's OneCycleLR)."""

ONE_CYCLE_END = 1e4
"""One-cycle ends at its start divided by this (``final_div_factor``)."""

MOMENTUM_SWING = 0.05
"""One-cycle moves momentum (Adam's first beta) this far to both sides, against the learning rate."""

_FIRST_FIELDS = frozenset(
    {
        "epochs",
        "batch_size",
        "optimizer",
        "learning_rate",
        "weight_decay",
        "momentum",
        "schedule",
        "warmup",
        "dropout",
    }
    | {"label_smoothing", "shift", "initialisation", "precision", "seed"}
)


@dataclass(frozen=True)
class Recipe:
    """A training run's numbers. The defaults learn from scratch on small data in few steps.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        optimizer: "adam", "adamw" (decoupled weight decay) or "sgd" (with momentum).
        learning_rate: the largest of the run.
        weight_decay: L2 coefficient; decoupled with adamw.
        momentum: of sgd.
        schedule: "cosine" falls to zero along half a cosine; "constant" stays; "one-cycle" rises from a 25th along
            half a cosine and falls along another to next to nothing, while momentum swings the other way (Smith
            2018, *A disciplined approach to neural network hyper-parameters*, with the numbers of torch's
            OneCycleLR); "plateau" is multiplied by ``plateau_factor`` whenever the test accuracy hasn't risen above
            its best for ``plateau_patience`` epochs.
        warmup: share of the run in which the learning rate rises linearly from zero; with "one-cycle", the share in
            which it rises at all. Epochs within it don't count for "plateau".
        dropout: what dropout layers drop while training, instead of what the network has; None leaves that.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
        shift: augmentation: every training image is moved by up to this share of its height and width, its edge
            repeated. It holds for digits as for photographs; mirroring doesn't.
        initialisation: "own" is what the network's class does; "kaiming" overrides it with
            :func:`export.models.alexnet.initialise_kaiming`.
        precision: "bf16" computes convolutions and products in bfloat16 (autocast) and keeps FP32 weights;
            "auto" takes it where the hardware has it.
        seed: of initialisation, order, augmentation and dropout.
        log_interval: steps between two reports of loss and accuracy.
        plateau_patience: epochs.
        plateau_factor: in (0, 1).
        crop: train on random crops of the input size, out of the larger frame of :func:`export.training.frame_of`.
        flip: mirror every second training image, drawn at random.
        pca_jitter: standard deviation of the shifts along the principal axes of the data's colours, in standard
            deviations along the axis (:mod:`export.training.colours`); 0 is none, the paper has 0.1.
        mixup: alpha of Beta(alpha, alpha), from which the share of each mixture of two images and their labels is
            drawn (Zhang et al. 2018, *mixup*); 0 is none.
        ema: decay of the exponential moving average of the weights, which is then what is tested and kept; 0 is none.
        compile: train with what ``torch.compile`` makes of the network; what is kept is the network itself.
        ten_crop: measure the final accuracy over ten crops as well, as the paper does.
        aux_weight: of the losses of auxiliary heads, where the network has them (GoogLeNet's 0.3).
        freeze: train the last layer only (:func:`export.training.head_of`); batch norm before it stays as it is.
        nesterov: Nesterov's momentum, for sgd.
        decay_all: weight decay on biases and the factors and offsets of norms too.
        clip: the largest L2 norm of the whole gradient, scaled down to it where it is larger; 0 leaves it.
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
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    crop: bool = False
    flip: bool = False
    pca_jitter: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    compile: bool = False
    ten_crop: bool = False
    aux_weight: float = 0.3
    freeze: bool = False
    nesterov: bool = False
    decay_all: bool = True
    clip: float = 0.0

    def __post_init__(self) -> None:
        """Reject numbers that can't train, and those that contradict each other."""
        problem = next((text for bad, text in (*self._problems(), *self._contradictions()) if bad), None)
        if problem:
            raise InputError(f"bad training option: {problem}", "see `toolkit train --help`")

    def _problems(self) -> list[tuple[bool, str]]:
        def positive(value: float) -> bool:
            return math.isfinite(value) and value > 0

        def negative(value: float) -> bool:
            return not (math.isfinite(value) and value >= 0)

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
            (self.plateau_patience < 1, f"a patience of {self.plateau_patience} epochs; at least 1"),
            (not 0 < self.plateau_factor < 1, f"a plateau factor of {self.plateau_factor}; must be in (0, 1)"),
            (negative(self.pca_jitter), f"a colour jitter of {self.pca_jitter}; must be 0 or more"),
            (negative(self.mixup), f"a mixup of {self.mixup}; must be 0 or more"),
            (not 0 <= self.ema < 1, f"a moving average with decay {self.ema}; must be in [0, 1)"),
            (negative(self.aux_weight), f"an auxiliary weight of {self.aux_weight}; must be 0 or more"),
            (negative(self.clip), f"gradients clipped to {self.clip}; must be 0 (not clipped) or more"),
            _unknown("optimizer", self.optimizer, OPTIMIZERS),
            _unknown("schedule", self.schedule, SCHEDULES),
            _unknown("initialisation", self.initialisation, INITIALISATIONS),
            _unknown("precision", self.precision, PRECISIONS),
        ]

    def _contradictions(self) -> list[tuple[bool, str]]:
        one_cycle = self.schedule == "one-cycle"
        swings = self.momentum == 0 or MOMENTUM_SWING <= self.momentum < 1 - MOMENTUM_SWING
        return [
            (one_cycle and not self.warmup, "one-cycle with no warm-up; it has to rise before it falls"),
            (
                one_cycle and self.optimizer == "sgd" and not swings,
                f"one-cycle moves a momentum of {self.momentum} by {MOMENTUM_SWING} both ways; must stay in [0, 1)",
            ),
            (bool(self.mixup) and self.batch_size < 2, f"mixup with a batch size of {self.batch_size}; at least 2"),
            (
                self.nesterov and self.optimizer != "sgd",
                f"Nesterov's momentum with {self.optimizer}; only sgd has it",
            ),
            (self.nesterov and not self.momentum, "Nesterov's momentum with a momentum of 0"),
        ]

    def rate(self, done: float) -> float:
        """The learning rate after the share ``done`` (0 to 1) of the run's images, before any plateau's factor."""
        if self.schedule == "one-cycle":
            low = self.learning_rate / ONE_CYCLE_START
            return self._cycle(done, low, self.learning_rate, low / ONE_CYCLE_END)
        if done < self.warmup:
            return self.learning_rate * done / self.warmup
        if self.schedule in {"constant", "plateau"}:
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2

    def momentum_at(self, done: float) -> float | None:
        """Momentum (Adam's first beta, around 0.9) after the share ``done`` of the run; None: it stays as it is."""
        usual = self.momentum if self.optimizer == "sgd" else 0.9
        if self.schedule != "one-cycle" or not usual:
            return None
        return self._cycle(done, usual + MOMENTUM_SWING, usual - MOMENTUM_SWING, usual + MOMENTUM_SWING)

    def _cycle(self, done: float, start: float, middle: float, end: float) -> float:
        """From start to middle along half a cosine until ``warmup``, then to the end along another."""
        rising = done < self.warmup
        share = done / self.warmup if rising else (done - self.warmup) / (1 - self.warmup)
        before, after = (start, middle) if rising else (middle, end)
        return after + (before - after) * (1 + math.cos(math.pi * share)) / 2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recipe":
        """Read what :meth:`to_json` wrote; fields that an older version didn't have take their defaults.

        Raises:
            InputError: fields are unknown, or their values can't train.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError(f"the training recipe is damaged: {error}", "train again with --force") from error

    def digest(self) -> str:
        """A digest of everything that shapes the result; the log interval doesn't.

        A field that came later counts only where it isn't at its default, so that older digests stay valid.
        """
        usual = {field.name: field.default for field in fields(self)}
        facts = {
            key: value
            for key, value in self.to_json().items()
            if key in _FIRST_FIELDS or (key != "log_interval" and value != usual[key])
        }
        return digest_bytes(repr(sorted(facts.items())).encode())


def _unknown(what: str, value: str, known: tuple[str, ...]) -> tuple[bool, str]:
    return value not in known, f"{what} '{value}'; known are {', '.join(known)}"


RECIPES: Mapping[str, Recipe] = {
    # From the paper's N(0, 0.01²) with biases of 1 the signal of an image all but vanishes on its way to the
    # logits: on the digits the network was still at chance after 48 steps, long before which Kaiming's learns.
    "alexnet-2012": Recipe(initialisation="kaiming"),
    # Sigmoids pass little on: with the usual steps it stays at chance, with these it is at 97.5 % of the digits of
    # 28×28. With Kaiming's initialisation, made for ReLU, it stays at chance with both.
    "lenet": Recipe(epochs=8, learning_rate=1e-2),
    # Batch normalisation takes, and wants, larger steps: in 3 epochs of these ResNet-18 is at 96.9 % of the digits of
    # 64×64, in 4 at 98.9 % of those of 32×32.
    **dict.fromkeys(
        ("googlenet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        Recipe(epochs=5, batch_size=32, learning_rate=1e-3),
    ),
}
"""Defaults of the architectures that have their own; :class:`Recipe`'s serve the others."""

NAMED: Mapping[str, Recipe] = {
    "default": Recipe(),
    # Krizhevsky et al. 2012, sections 4 and 5. The paper lowered its learning rate by hand, three times in about 90
    # epochs; a patience of 5 is ours. It multiplies momentum and learning rate in the other order than PyTorch
    # does, which is the same while the learning rate stays.
    "paper": Recipe(
        epochs=90,
        batch_size=128,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=5e-4,
        momentum=0.9,
        schedule="plateau",
        plateau_patience=5,
        plateau_factor=0.1,
        warmup=0.0,
        dropout=0.5,
        label_smoothing=0.0,
        shift=0.0,
        precision="fp32",
        crop=True,
        flip=True,
        pca_jitter=0.1,
        ten_crop=True,
    ),
    # What holds for digits as for photographs: no mirroring, and no compiling, which costs a minute at the start.
    "modern": Recipe(
        epochs=20,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.05,
        schedule="one-cycle",
        warmup=0.3,
        mixup=0.2,
        ema=0.99,
        decay_all=False,
        clip=1.0,
    ),
    # Of a trained network, with the rounding of its INT8 graph: small steps, and targets as they are.
    "qat": Recipe(
        epochs=5, learning_rate=1e-4, warmup=0.1, dropout=None, label_smoothing=0.0, shift=0.05, precision="fp32"
    ),
}
"""Recipes by name. An architecture's own defaults (:data:`RECIPES`) stand for "default"."""


def recipe_for(architecture: str, recipe: str | None = None, **choices: Any) -> Recipe:
    """A recipe with some numbers chosen otherwise; a choice of None leaves the recipe's.

    Args:
        architecture: the registry's name.
        recipe: a name in :data:`NAMED`; None and "default" give the architecture's own.
        choices: fields of :class:`Recipe`.

    Raises:
        InputError: there is no such recipe, or a choice can't train.
    """
    if recipe is not None and recipe not in NAMED:
        raise InputError(f"there is no recipe '{recipe}'", f"known are {', '.join(NAMED)}")
    own = RECIPES.get(architecture, Recipe())
    start = own if recipe in {None, "default"} else NAMED[recipe or "default"]
    return replace(start, **{k: v for k, v in choices.items() if v is not None})
