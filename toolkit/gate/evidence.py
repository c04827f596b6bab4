"""Everything that the gates judge by."""

from dataclasses import dataclass

from engines.errors import ToolkitError
from engines.metadata import ModelMetadata
from toolkit.comparison.records.row import Row
from toolkit.gate.asking import Answered
from toolkit.machine import Machine


@dataclass(frozen=True)
class Evidence:
    """What was measured of the two.

    Attributes:
        old, new: rows with timings; those of a baseline were not interleaved with the new one's.
        old_model, new_model: labels and preprocessing; None where the file carries none.
        answered: what both answered.
        failure: why the new one didn't open, or stopped; None when it ran to the end.
        machines: of the old one and of the new one.
        threads: CPU threads asked for, of the old one and of the new one.
        baseline: the old one's timings come from a file, and from when; empty when it was run just now.
        warnings: what casts doubt on the times.
    """

    old: Row
    new: Row
    old_model: ModelMetadata | None
    new_model: ModelMetadata | None
    answered: Answered
    failure: ToolkitError | None
    machines: tuple[Machine, Machine]
    threads: tuple[int | None, int | None] = (None, None)
    baseline: str = ""
    warnings: tuple[str, ...] = ()

    def other_weights(self) -> str | None:
        """Why the logits differ by right; None when both say that they have the same weights, or don't say."""
        old, new = (model.origin.get("weights") if model else None for model in (self.old_model, self.new_model))
        if old and new and old != new:
            return "the weights are others, and the logits with them"
        return None

    def not_timed(self) -> str | None:
        """Why times and memory can't be held against each other; None when they can."""
        if self.failure is not None:
            return "the new one failed"
        if self.baseline and (reason := _elsewhere(*self.machines)):
            return reason
        old, new = self.threads
        if self.baseline and old != new:
            return f"the baseline was timed with {_threads(old)}, the new one with {_threads(new)}"
        if self.baseline and not self.old.speeds:
            return "the baseline holds no times"
        return None


def _elsewhere(old: Machine, new: Machine) -> str | None:
    """The first fact in which another machine differs; a driver or library is what an upgrade changes."""
    for what, was, now in (
        ("processor", old.processor, new.processor),
        ("number of cores", f"{old.cores:g}", f"{new.cores:g}"),
        ("GPU", _gpus(old), _gpus(new)),
    ):
        if was != now:
            return f"the baseline was timed on another machine: {what} {was or 'none'} then, {now or 'none'} now"
    return None


def _gpus(machine: Machine) -> str:
    return ", ".join(str(gpu.get("name", "GPU")) for gpu in machine.gpus)


def _threads(count: int | None) -> str:
    return "the backend's own threads" if count is None else f"{count} threads"
