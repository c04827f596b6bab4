"""What an interrupted comparison left, taken up again."""

from collections.abc import Mapping

from engines.errors import RunError
from toolkit.comparison.measuring.plan import Entry
from toolkit.comparison.records.record import Comparison


def goes_on(known: Comparison, reference: str | None) -> bool:
    """Whether there is more to measure: else it would end at once as it did before, and what failed may run now.

    Args:
        known: what an interrupted run left.
        reference: the name of the one that was asked for as the reference; None for none.
    """
    failed = {row.name for row in known.rows if row.failure is not None}
    return reference not in failed and len(failed) < len(known.rows)


def restore(entries: Mapping[str, Entry], known: Comparison) -> None:
    """Give the entries what a record of the same artifacts has of them.

    One that failed is not tried again: the same artifact on the same machine would fail again.
    """
    for row in known.rows:
        entry = entries.get(row.name)
        if entry is None or entry.digest != row.digest:
            continue
        entry.opened, entry.architecture = row.opened, row.architecture
        entry.cold_starts = list(row.cold_starts)
        entry.accuracy, entry.fidelity = row.accuracy, row.fidelity
        entry.speeds, entry.skipped = dict(row.speeds), dict(row.skipped)
        entry.memory, entry.device_memory = row.memory, row.device_memory
        entry.proof = row.proof
        entry.notes = list(row.notes)
        if row.failure is not None:
            entry.error = RunError(row.failure.cause, row.failure.remedy)
