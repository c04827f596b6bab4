"""So many out of so many, and how sure the rate behind them is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from export.metrics import wilson_interval


@dataclass(frozen=True)
class Share:
    """So many out of so many, and the Wilson 95 % interval of the rate behind them."""

    count: int
    total: int

    @property
    def rate(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        low, high = wilson_interval(self.count, self.total)
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"count": self.count, "total": self.total, "rate": self.rate, "low": low, "high": high}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote; rate and interval follow from the counts."""
        return cls(int(value["count"]), int(value["total"]))
