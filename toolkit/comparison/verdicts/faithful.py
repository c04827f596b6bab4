"""Which artifacts of a network that isn't a classifier are near enough to the reference to be recommended."""

from collections.abc import Sequence
from math import isinf

from toolkit.comparison.goal import Goal
from toolkit.comparison.records.record import Row

LEAST_DB = 20.0
"""An SQNR below it, noise of more than a hundredth of the signal, is too far from the reference to be recommended."""


def judged_by_outputs(rows: Sequence[Row]) -> bool:
    """Whether the rows have neither accuracy nor labels for it: only their outputs are left to be compared."""
    return any(row.fidelity for row in rows) and not any(row.accuracy for row in rows)


def faithful(rows: Sequence[Row]) -> list[Row]:
    """The rows whose every float output is finite and within :data:`LEAST_DB` of the reference; and the reference."""
    return [row for row in rows if row.fidelity and not row.fidelity.non_finite and row.fidelity.least_db >= LEAST_DB]


def cannot_judge(rows: Sequence[Row], goal: Goal) -> str:
    """Why nothing is recommended; empty where something is."""
    if goal.aim == "accuracy":
        return "without labels no artifact is right more often than another"
    if faithful(rows):
        return ""
    found = [(row.fidelity.least_db, row.name) for row in rows if row.fidelity and row.fidelity.outputs]
    nearest = f"; {max(found)[1]} is the nearest, {max(found)[0]:.1f} dB" if found else ""
    return f"none is within {LEAST_DB:g} dB SQNR of the reference at every output{nearest}"


def outputs_text(row: Row, reference: Row | None) -> str:
    """How near its outputs are, for the recommendation; nothing for the reference itself."""
    if row.fidelity is None or not row.fidelity.outputs:
        return ""
    level = row.fidelity.least_db
    name = reference.name if reference else "the reference"
    if isinf(level):
        return f"outputs as {name}"
    return f"outputs at least {level:.1f} dB SQNR from {name}"


def caveats(goal: Goal) -> list[str]:
    """What a goal asks that such a network can't answer."""
    if goal.max_drop == Goal.max_drop:
        return []
    return ["A drop in top-1 doesn't apply: the network isn't a classifier, or the data has no labels"]
