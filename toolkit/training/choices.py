"""The numbers of a recipe that a caller may choose."""

from typing import TypedDict


class Choices(TypedDict, total=False):
    """Fields of :class:`export.recipe.Recipe`, whose docstring says what each is; None leaves the recipe's."""

    epochs: int | None
    batch_size: int | None
    optimizer: str | None
    learning_rate: float | None
    weight_decay: float | None
    decay_all: bool | None
    momentum: float | None
    nesterov: bool | None
    clip: float | None
    schedule: str | None
    warmup: float | None
    plateau_patience: int | None
    plateau_factor: float | None
    dropout: float | None
    label_smoothing: float | None
    aux_weight: float | None
    mixup: float | None
    ema: float | None
    shift: float | None
    crop: bool | None
    flip: bool | None
    pca_jitter: float | None
    ten_crop: bool | None
    initialisation: str | None
    precision: str | None
    compile: bool | None
    freeze: bool | None
    seed: int | None
    log_interval: int | None
