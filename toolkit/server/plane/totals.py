"""What a model has done since the server began, however often it was opened again."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from toolkit.runtime.batching.stats import BatcherStats, TimeStats


def ended(stats: BatcherStats) -> BatcherStats:
    """The counts of a batcher that is closed: what was in it is no more."""
    return replace(stats, depth=0, limit=0, sessions=0)


def total(first: BatcherStats, others: Iterable[BatcherStats]) -> BatcherStats:
    """The sum of ``first``, which works now, and of others that are closed or will be.

    What waits counts wherever it is; the limit and the sessions are those of ``first``.
    """
    values = {one.name: getattr(first, one.name) for one in fields(BatcherStats)}
    for other in others:
        for name, value in values.items():
            if name not in {"limit", "sessions"}:
                values[name] = _sum(value, getattr(other, name))
    return BatcherStats(**values)


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, TimeStats):
        return TimeStats(
            one.count + other.count,
            one.seconds + other.seconds,
            max(one.largest, other.largest),
            tuple(map(sum, zip(one.buckets, other.buckets, strict=True))),
        )
    if isinstance(one, dict):
        summed = {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
        return dict(sorted(summed.items())) if all(isinstance(key, int) for key in summed) else summed
    return one + other
