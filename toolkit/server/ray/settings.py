"""How the models are scaled out."""

import math
from dataclasses import dataclass

from engines.errors import InputError


@dataclass(frozen=True)
class RaySettings:
    """A Serve deployment's size.

    Attributes:
        address: of a cluster that is there already ("auto", "host:6379"); "" for ``RAY_ADDRESS``, or one on this
            machine that ends with the server.
        least, most: replicas; the number changes with the load where they differ.
        gpus, cpus: what Ray sets aside for each; fractions share one. A GPU that isn't asked for isn't seen.
        target: requests under way in a replica that the scaling aims at: about what keeps full batches coming.
        application: its name on the cluster.
        health_period: seconds between two looks at a replica's health.
        drain_timeout: seconds that a replica which is to end gets to answer what it accepted.
    """

    address: str = ""
    least: int = 1
    most: int = 1
    gpus: float = 0.0
    cpus: float = 1.0
    target: float = 64.0
    application: str = "toolkit"
    health_period: float = 2.0
    drain_timeout: float = 30.0

    def __post_init__(self) -> None:
        """Reject numbers that make no sense."""
        numbers = (self.gpus, self.cpus, self.target)
        if not 1 <= self.least <= self.most or not all(math.isfinite(one) and one >= 0 for one in numbers):
            raise InputError(
                f"{self.least}:{self.most} replicas with {self.gpus} GPUs and {self.cpus} CPUs each",
                "give 1 or more replicas, the smaller number first, and no less than 0 GPUs and CPUs",
            )


def replicas_of(text: str) -> tuple[int, int]:
    """The bounds that ``"2"`` and ``"1:4"`` stand for.

    Raises:
        InputError: it is neither.
    """
    least, colon, most = text.partition(":")
    try:
        return int(least), int(most) if colon else int(least)
    except ValueError as error:
        raise InputError(f"'{text}' is no number of replicas", "give 2, say, or 1:4") from error
