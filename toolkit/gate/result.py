"""What a diff found: each gate's verdict, what changed around the two, and the worst flips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolkit.comparison.accuracy.accuracy import Accuracy, Disagreement
from toolkit.comparison.records.record import DataFacts
from toolkit.comparison.records.row import Row
from toolkit.gate.limits import OPTIONS, Limits
from toolkit.machine import Machine

FORMAT = "onnx-tensorrt-toolkit/diff"
VERSION = 1

Status = Literal["passed", "failed", "undecided", "skipped"]


@dataclass(frozen=True)
class Gate:
    """One gate's verdict.

    Attributes:
        name: which.
        status: "undecided" where the measurement is too uncertain to tell.
        text: the figures, or why it wasn't judged; one line.
        value, limit: in ``unit``; None where there is none.
        interval: the bounds between which the true value lies; None where it was counted, not estimated.
        unit: "%", "points", "images", "layers", "x" or "".
        details: one line each: the layers that got wider, the tensors that changed.
    """

    name: str
    status: Status
    text: str
    value: float | None = None
    limit: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    details: tuple[str, ...] = ()

    @property
    def found(self) -> str:
        """The value with its unit, and its interval where it was estimated; "-" without one."""
        if self.value is None:
            return "-"
        bounds = "" if self.interval is None else " ({:.1f} to {:.1f})".format(*self.interval)
        return amount(self.value, self.unit) + bounds

    @property
    def allowed(self) -> str:
        """The limit with its unit; "-" without one."""
        return "-" if self.limit is None else amount(self.limit, self.unit)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "text": self.text,
            "value": self.value,
            "limit": self.limit,
            "interval": None if self.interval is None else list(self.interval),
            "unit": self.unit,
            "details": list(self.details),
        }


def amount(value: float, unit: str) -> str:
    """A number with its unit: "1 image", "3 layers", "2.5 %", "10.5x"."""
    if unit.endswith("s") and unit != "points":
        return f"{value:.0f} {unit if value != 1 else unit[:-1]}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:.0f}"
    text = "0" if text == "-0" else text
    return f"{text}x" if unit == "x" else f"{text} {unit}".strip()


@dataclass(frozen=True)
class Change:
    """A fact that differs between the two: a library's version, a driver, a GPU, a digest."""

    what: str
    old: str
    new: str

    def to_json(self) -> dict[str, str]:
        return {"what": self.what, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        row: what was measured of it.
        accuracy: on the data; None where it wasn't evaluated.
        machine: where.
        created: when it was measured, UTC, ISO 8601.
        baseline: the file that its answers were read from; None when it was run just now.
    """

    row: Row
    accuracy: Accuracy | None
    machine: Machine
    created: str
    baseline: str | None = None

    @property
    def name(self) -> str:
        return self.row.name

    def to_json(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "baseline": self.baseline,
            "machine": self.machine.to_json(),
            **self.row.to_json(),
            "accuracy": self.accuracy and self.accuracy.to_json(),
        }


@dataclass(frozen=True)
class Diff:
    """The new one against the old one.

    Attributes:
        created: UTC, ISO 8601.
        command: the command that repeats it.
        old, new: the two.
        data: what they answered.
        limits: what the gates let pass.
        gates: one verdict a gate, causes before effects.
        changes: what differs around the two.
        flips: the worst, by the old one's margin.
        warnings: what casts doubt on the figures.
        strict: undecided gates count as failed.
        seconds: how long it took.
    """

    created: str
    command: str
    old: Side
    new: Side
    data: DataFacts | None
    limits: Limits
    gates: tuple[Gate, ...]
    changes: tuple[Change, ...] = ()
    flips: tuple[Disagreement, ...] = ()
    warnings: tuple[str, ...] = ()
    strict: bool = False
    seconds: float = 0.0

    @property
    def broken(self) -> tuple[Gate, ...]:
        """The gates that stop it: the failed ones, with ``strict`` the undecided ones; all where none was judged."""
        if all(gate.status == "skipped" for gate in self.gates):
            return self.gates
        stops = {"failed", "undecided"} if self.strict else {"failed"}
        return tuple(gate for gate in self.gates if gate.status in stops)

    @property
    def passed(self) -> bool:
        return not self.broken

    def gate(self, name: str) -> Gate:
        """The verdict of this gate; KeyError when there is none."""
        for gate in self.gates:
            if gate.name == name:
                return gate
        raise KeyError(name)

    def what_broke(self) -> str:
        """One line: the first gate that stops it with its figures, and the names of the others."""
        first, *others = self.broken
        if first.status == "skipped":
            return f"nothing of '{self.new.name}' could be judged: {first.name}: {first.text}"
        also = f"; also {', '.join(gate.name for gate in others)}" if others else ""
        figures = "" if first.value is None else f"{first.found}, limit {first.allowed}: "
        return f"'{self.new.name}' is stopped by {first.name}: {figures}{first.text}{also}"

    def remedy(self) -> str:
        """What can be done about the first gate that stops it."""
        first = self.broken[0]
        if first.status == "skipped":
            return "judge other gates too: leave --only and --skip out"
        if first.name == "run":
            return first.details[0] if first.details else "keep the old one, or build the new one again"
        if first.status == "undecided":
            return "measure again on an idle machine with more --seconds and --launches, or without --strict"
        option = OPTIONS.get(first.name)
        raised = f"raise {option} or leave it out" if option else "leave it out"
        return f"where that is meant, {raised} with --skip {first.name}"

    def to_json(self) -> dict[str, Any]:
        """One object; times in seconds, sizes in bytes, a gate's value in the gate's unit."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": self.created,
            "command": self.command,
            "passed": self.passed,
            "strict": self.strict,
            "broken": [gate.name for gate in self.broken],
            "gates": [gate.to_json() for gate in self.gates],
            "limits": self.limits.to_json(),
            "data": self.data and self.data.to_json(),
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "changes": [change.to_json() for change in self.changes],
            "flips": [flip.to_json() for flip in self.flips],
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
        }


Facts = Mapping[str, Any]
