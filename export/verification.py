"""What a verification measured: the numbers, the verdict, and how both are told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engines.errors import GraphError

MULTIPLE = 4.0
"""How many noise floors the graph may be away from the reference."""


@dataclass(frozen=True)
class Measurement:
    """One kind of input at one batch size.

    Attributes:
        inputs: "random" or "real".
        batch: the batch size.
        distance: largest absolute difference between the graph's logits and the float64 reference.
        noise: the noise floor for this kind of input.
        snr: of the graph's logits, in dB against the reference; None where the two are equal.
        flips: rows whose top-1 differs from the reference's.
        failures: those of them whose margin exceeds twice the noise.
    """

    inputs: str
    batch: int
    distance: float
    noise: float
    snr: float | None
    flips: int
    failures: int


@dataclass(frozen=True)
class Verification:
    """What was measured, and whether the graph passes.

    Attributes:
        passed: no problems.
        multiple: how many noise floors were allowed.
        measurements: one for each kind of input and batch size that ran.
        problems: why it failed, a line each.
        versions: of the libraries on both sides.
        seed: of the random inputs.
    """

    passed: bool
    multiple: float
    measurements: tuple[Measurement, ...]
    problems: tuple[str, ...]
    versions: dict[str, str]
    seed: int

    @property
    def worst(self) -> float:
        """The largest distance in noise floors; 0 where nothing was measured."""
        return max((item.distance / item.noise for item in self.measurements), default=0.0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "worst": self.worst}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verification":
        """Read what :meth:`to_json` wrote.

        Raises:
            GraphError: it isn't that.
        """
        try:
            return cls(
                passed=bool(value["passed"]),
                multiple=float(value["multiple"]),
                measurements=tuple(Measurement(**item) for item in value["measurements"]),
                problems=tuple(map(str, value["problems"])),
                versions={str(name): str(version) for name, version in value["versions"].items()},
                seed=int(value["seed"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(
                f"the record of the verification is damaged: {error}", "verify the graph again"
            ) from error

    def summary(self) -> list[str]:
        """What to print: a line a kind of input, then the verdict."""
        lines = []
        for kind in dict.fromkeys(item.inputs for item in self.measurements):
            items = [item for item in self.measurements if item.inputs == kind]
            worst = max(items, key=lambda item: item.distance)
            ratio = worst.distance / worst.noise
            flips = sum(item.flips for item in items)
            sizes = ", ".join(str(item.batch) for item in items)
            lines.append(
                f"{kind} inputs, batches of {sizes}: at most {worst.distance:.2e} from float64 PyTorch, "
                f"{ratio:.1f} of {self.multiple:g} noise floors ({worst.noise:.2e}); "
                + ("every top-1 agrees" if not flips else f"{flips} top-1 differ")
            )
        return [*lines, *self.problems, "verified" if self.passed else "NOT verified"]
