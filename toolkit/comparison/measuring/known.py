"""What an interrupted comparison left, taken up again."""

from collections.abc import Mapping

from engines.errors import RunError
from toolkit.comparison.measuring.plan import Entry
from toolkit.comparison.records.record import Comparison


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
        entry.accuracy = row.accuracy
        entry.speeds, entry.skipped = dict(row.speeds), dict(row.skipped)
        entry.memory, entry.device_memory = row.memory, row.device_memory
        entry.proof = row.proof
        entry.notes = list(row.notes)
        if row.failure is not None:
            entry.error = RunError(row.failure.cause, row.failure.remedy)
