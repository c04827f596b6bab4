"""What casts doubt on the figures of a comparison."""

from collections.abc import Sequence

from toolkit.comparison.record import Row
from toolkit.machine import usable_cores

BUSY_SHARE = 0.15
"""Other work on more than this share of the cores is worth a warning."""

UNSTEADY = 1.5
"""A p95 above this many medians is worth one too."""


def warnings_of(rows: Sequence[Row], busy: float | None) -> tuple[str, ...]:
    """One line for each reason to measure again.

    Args:
        rows: what was measured.
        busy: cores' worth of other work on the machine just before; None where unknown.
    """
    found = []
    cores = usable_cores()
    if busy is not None and busy > BUSY_SHARE * cores:
        found.append(f"other work kept {busy:.1f} of {cores:g} cores busy before the measuring: times may be off")
    unsteady = [
        f"{row.name} at batch {batch}"
        for row in rows
        for batch, speed in row.speeds.items()
        if speed.timing.p95 > UNSTEADY * speed.timing.p50
    ]
    if unsteady:
        shown = ", ".join(unsteady[:4]) + (" and others" if len(unsteady) > 4 else "")
        found.append(f"times vary widely (p95 over {UNSTEADY:g} x the median): {shown}")
    return tuple(found)
