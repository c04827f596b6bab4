"""What all replicas of a model have done together."""

from collections.abc import Iterable, Mapping
from typing import Any

Stats = Mapping[str, Mapping[str, Any]]
"""By model, what ``Plane.statistics`` gives."""

_OF_NOW = frozenset({"depth", "limit", "sessions"})
"""What a replica that is gone has no more."""

_LARGEST = frozenset({"largest", "last_inference", "generation", "max_batch"})
"""What isn't added up: of these the largest counts."""


class Tally:
    """Sums over replicas that come and go; the sums of what was done never shrink."""

    def __init__(self) -> None:
        self._now: dict[str, Stats] = {}
        self._gone: Stats = {}

    def take(self, everywhere: Mapping[str, Stats]) -> None:
        """Take what replicas say.

        Args:
            everywhere: by replica; one that isn't there is gone, with what it said last.
        """
        for replica in set(self._now) - set(everywhere):
            left = {
                model: {key: 0 if key in _OF_NOW else value for key, value in stats.items()}
                for model, stats in self._now[replica].items()
            }
            self._gone = added([self._gone, left])
        self._now = dict(everywhere)

    def total(self) -> Stats:
        """The sums."""
        return added([*self._now.values(), self._gone])


def added(several: Iterable[Stats]) -> Stats:
    """The sum of several statistics, number by number."""
    total: dict[str, Any] = {}
    for one in several:
        total = _add(total, one)
    return total


def _add(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _sum(key, one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
        for key in {**one, **other}
    }


def _sum(key: str, one: Any, other: Any) -> Any:
    if key == "bounds":
        return one
    if key in _LARGEST:
        return max(one, other)
    if isinstance(one, Mapping):
        return _add(one, other)
    if isinstance(one, list | tuple):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other
