"""What is kept of a batch that went through a session."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ride:
    """The batch that gave a request its result; one for all of its requests.

    Times are by ``time.monotonic``: a request waited from ``Answer.arrived`` to ``began``, was staged until
    ``staged`` and ran until ``ended``, with its way to a device and back, and what its session still had to do first.

    Attributes:
        began: when the batch was formed.
        staged: when it lay in its session's memory.
        ended: when it was through.
        size: samples that ran together.
        device: where: "cpu", "cuda:0".
    """

    began: float
    staged: float
    ended: float
    size: int
    device: str
