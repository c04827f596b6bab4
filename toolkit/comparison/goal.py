"""What somebody who compares engines is after."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from engines.errors import InputError

Aim = Literal["latency", "throughput", "accuracy", "balanced"]
AIMS: tuple[Aim, ...] = get_args(Aim)


@dataclass(frozen=True)
class Goal:
    """What a recommendation is for.

    Attributes:
        aim: what is to be best.
        max_drop: points of top-1 accuracy that may be lost against the reference: 0.5 is one image of 200.
        batch: the batch size that counts; None leaves it to the aim.
    """

    aim: Aim
    max_drop: float = 0.5
    batch: int | None = None

    def __post_init__(self) -> None:
        """Reject what is no goal.

        Raises:
            InputError: an unknown aim, a drop that is no number of points from 0 to 100, a batch size below 1.
        """
        if self.aim not in AIMS:
            raise InputError(f"there is no goal '{self.aim}'", f"goals are {', '.join(AIMS)}")
        if not 0 <= self.max_drop <= 100:
            raise InputError(
                f"a drop of {self.max_drop:g} points makes no sense", "give points of accuracy, such as 0.5"
            )
        if self.batch is not None and self.batch < 1:
            raise InputError(f"a batch of {self.batch} images makes no sense", "give a batch size of 1 or more")

    def to_json(self) -> dict[str, Any]:
        return {"aim": self.aim, "max_drop": self.max_drop, "batch": self.batch}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(cast("Aim", value["aim"]), float(value["max_drop"]), value["batch"])
