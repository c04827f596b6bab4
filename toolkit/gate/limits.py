"""How much worse the new one may be."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from engines.errors import InputError

GATES = (
    "run",
    "tensors",
    "precision",
    "non-finite",
    "logits",
    "logits-shift",
    "flips",
    "confident-flips",
    "accuracy",
    "latency",
    "throughput",
    "size",
    "memory",
)
"""Every gate, causes before their effects: the first that breaks is the one to look at."""

DISTURBED = frozenset({"logits", "logits-shift"})
"""The gates that need the old one's response to a disturbance."""

TIMED = frozenset({"latency", "throughput", "memory"})
"""The gates that need both to be run in turns."""


@dataclass(frozen=True)
class Limits:
    """What each gate lets pass.

    Attributes:
        max_flips: per cent of the images whose top-1 class changed.
        max_confident_flips: images that flipped though the old one had a margin above 0.5.
        max_drop: points of top-1 accuracy lost.
        max_distance: root mean square of the logits' change, in units of the old one's own response to a
            disturbance of one step of every pixel.
        max_shift: the systematic part of that change, in the same unit.
        max_non_finite: images that got NaN or infinity where the old one gave numbers.
        max_widened: convolutions and matrix products that compute in a wider type than before.
        max_slowdown: per cent more time a run at the smallest batch size.
        max_throughput_loss: per cent fewer images a second at the largest batch size.
        max_growth: per cent more bytes of file.
        max_memory_growth: per cent more bytes of memory, on the host and on the GPU.
    """

    max_flips: float = 1.0
    max_confident_flips: int = 0
    max_drop: float = 0.5
    max_distance: float = 2.0
    max_shift: float = 0.25
    max_non_finite: int = 0
    max_widened: int = 0
    max_slowdown: float = 5.0
    max_throughput_loss: float = 5.0
    max_growth: float = 10.0
    max_memory_growth: float = 20.0

    def __post_init__(self) -> None:
        """Reject what is no limit.

        Raises:
            InputError: a limit is negative or no number.
        """
        for name, value in asdict(self).items():
            if not 0 <= value < float("inf"):
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option} {value:g} makes no sense", "give a number of 0 or more")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


OPTIONS = {
    "non-finite": "--max-non-finite",
    "precision": "--max-widened",
    "logits": "--max-distance",
    "logits-shift": "--max-shift",
    "flips": "--max-flips",
    "confident-flips": "--max-confident-flips",
    "accuracy": "--max-drop",
    "latency": "--max-slowdown",
    "throughput": "--max-throughput-loss",
    "size": "--max-growth",
    "memory": "--max-memory-growth",
}
"""The option that sets a gate's limit; the others have none."""


def chosen_gates(only: Iterable[str] = (), skip: Iterable[str] = ()) -> tuple[str, ...]:
    """The gates to judge, in order.

    Raises:
        InputError: there is no gate of such a name, or none is left.
    """
    only, skip = tuple(only), tuple(skip)
    for name in (*only, *skip):
        if name not in GATES:
            raise InputError(f"there is no gate '{name}'", f"gates are {', '.join(GATES)}")
    gates = tuple(name for name in GATES if (not only or name in only) and name not in skip)
    if not gates:
        raise InputError("no gate is left to judge", "skip fewer")
    return gates
