"""Accuracy counted batch by batch, so that any number of images takes the memory of one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.metrics import wilson_interval

TOP_K = 5


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


@dataclass(frozen=True)
class Accuracy:
    """What one artifact got right.

    Attributes:
        top1: images whose label has the largest logit.
        top5: images whose label is among the five largest; None for five classes or fewer.
        agreement: images for which it names the same class as the reference; None without one.
        non_finite: images whose logits hold NaN or infinity: wrong, and in disagreement, by definition.
    """

    top1: Share
    top5: Share | None
    agreement: Share | None
    non_finite: int

    def to_json(self) -> dict[str, Any]:
        return {
            "top1": self.top1.to_json(),
            "top5": self.top5 and self.top5.to_json(),
            "agreement": self.agreement and self.agreement.to_json(),
            "non_finite": self.non_finite,
        }


@dataclass
class Tally:
    """Counts over the batches of one artifact.

    Attributes:
        classes: the number of logits, learnt from the first batch.
    """

    images: int = 0
    classes: int = 0
    right: int = 0
    among: int = 0
    compared: int = 0
    same: int = 0
    non_finite: int = 0

    def add(
        self,
        logits: NDArray[np.float32],
        labels: NDArray[np.int64],
        reference: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Count one batch.

        Args:
            logits: float32 [N, classes].
            labels: int64 [N], the true class numbers.
            reference: int64 [N], the reference's top-1 class numbers, -1 where it had none.

        Returns:
            int64 [N]: this artifact's top-1 class numbers, -1 where a logit is NaN or infinite.
        """
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        predicted = np.where(finite, logits.argmax(axis=1), -1).astype(np.int64)
        self.images += len(logits)
        self.classes = logits.shape[1]
        self.non_finite += int((~finite).sum())
        self.right += int((predicted == labels).sum())
        self.among += int((finite & (ranks(logits, labels) < TOP_K)).sum())
        if reference is not None:
            self.compared += len(logits)
            self.same += int(((predicted == reference) & finite).sum())
        return predicted

    def result(self, *, with_agreement: bool = True) -> Accuracy:
        """The shares; at least one image must have been counted."""
        return Accuracy(
            top1=Share(self.right, self.images),
            top5=Share(self.among, self.images) if self.classes > TOP_K else None,
            agreement=Share(self.same, self.compared) if self.compared and with_agreement else None,
            non_finite=self.non_finite,
        )


def ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the label: 0 is top-1. Equal logits rank in class order, as argmax has it."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    with np.errstate(invalid="ignore"):
        before: NDArray[np.bool_] = (logits > own) | ((logits == own) & earlier)
        return np.asarray(before.sum(axis=1), np.int64)


def class_map(labels: Sequence[str], reference: Sequence[str]) -> NDArray[np.int64] | None:
    """For each class of an artifact its number in the reference's order.

    Classes are matched by name where both have the same names, else by number.

    Returns:
        int64 [classes]; None when the two have different numbers of classes, so that nothing can be compared.
    """
    if len(labels) != len(reference):
        return None
    numbers = {name: number for number, name in enumerate(reference)}
    if numbers.keys() == set(labels) and len(numbers) == len(reference):
        return np.array([numbers[name] for name in labels], np.int64)
    return np.arange(len(labels), dtype=np.int64)
