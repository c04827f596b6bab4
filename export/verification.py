"""What a verification measured: the numbers, the verdict, and how both are told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engines.errors import GraphError

MULTIPLE = 4.0
"""How many noise floors the graph may be away from the reference."""

PYTORCH = "float64 PyTorch"
"""What a graph is held against that was exported here; an imported one is held against its file."""


@dataclass(frozen=True)
class Measurement:
    """One kind of input at one batch size.

    Attributes:
        inputs: "random" or "real".
        batch: the batch size.
        distance: largest absolute difference between the graph's logits (or other output) and the float64 reference;
            of an output of integers the share of elements that differ.
        noise: the noise floor for this kind of input.
        snr: of the graph's logits, in dB against the reference; None where the two are equal.
        flips: rows whose top-1 differs from the reference's.
        failures: those of them whose margin exceeds twice the noise.
        output: which output, of a network whose metadata names them; else empty.
    """

    inputs: str
    batch: int
    distance: float
    noise: float
    snr: float | None
    flips: int
    failures: int
    output: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; the output's name is left out where it is empty."""
        value = asdict(self)
        return value if self.output else {name: item for name, item in value.items() if name != "output"}


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
        reference: what the graph was held against.
    """

    passed: bool
    multiple: float
    measurements: tuple[Measurement, ...]
    problems: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    reference: str = PYTORCH

    @property
    def worst(self) -> float:
        """The largest distance in noise floors; 0 where nothing was measured."""
        return max((item.distance / item.noise for item in self.measurements), default=0.0)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "measurements": tuple(item.to_json() for item in self.measurements),
            "worst": self.worst,
        }

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
                reference=str(value.get("reference", PYTORCH)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(
                f"the record of the verification is damaged: {error}", "verify the graph again"
            ) from error

    def summary(self) -> list[str]:
        """What to print: a line a kind of input, then the verdict."""
        lines = []
        for kind, output in dict.fromkeys((item.inputs, item.output) for item in self.measurements):
            items = [item for item in self.measurements if (item.inputs, item.output) == (kind, output)]
            worst = max(items, key=lambda item: item.distance)
            ratio = worst.distance / worst.noise
            flips = sum(item.flips for item in items)
            sizes = ", ".join(str(item.batch) for item in items)
            said = (
                f"{kind} inputs, batches of {sizes}{f', {output}' if output else ''}: at most {worst.distance:.2e} "
                f"from {self.reference}, {ratio:.1f} of {self.multiple:g} noise floors ({worst.noise:.2e})"
            )
            top1 = "every top-1 agrees" if not flips else f"{flips} top-1 differ"
            lines.append(said if output and not flips else f"{said}; {top1}")
        return [*lines, *self.problems, "verified" if self.passed else "NOT verified"]
