"""Whether a classifier is as often right as it is sure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from toolkit.comparison.accuracy.answers import Answers

BINS = 15
"""Bins of equal width from 0 to 1, as Guo et al. have them."""


@dataclass(frozen=True)
class Bin:
    """The images whose likeliest class has a probability in (low, high].

    Attributes:
        low, high: the bin's bounds.
        count: how many images.
        confidence: the mean of those probabilities; None for an empty bin.
        accuracy: the share of the images that are right; None for an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Confidence:
    """The calibration of a classifier's probabilities.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3. Images
    whose answer holds NaN or infinity have no probability and are not in it.

    Attributes:
        ece: the expected calibration error, the mean over images of |accuracy - confidence| of their bin.
        bins: from 0 to 1, empty ones too.
    """

    ece: float
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, counts: Sequence[int], sums: Sequence[float], right: Sequence[int]) -> "Confidence | None":
        """Summarise bins of equal width.

        Args:
            counts: images of each bin.
            sums: of their probabilities.
            right: how many of them are right.

        Returns:
            None when no image has a probability.
        """
        total = sum(counts)
        if not total:
            return None
        size = len(counts)
        bins = tuple(
            Bin(i / size, (i + 1) / size, n, min(1.0, p / n) if n else None, hits / n if n else None)
            for i, (n, p, hits) in enumerate(zip(counts, sums, right, strict=True))
        )
        return cls(sum(abs(hits - p) for p, hits in zip(sums, right, strict=True)) / total, bins)

    def to_json(self) -> dict[str, Any]:
        return {"ece": self.ece, "bins": [asdict(one) for one in self.bins]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(value["ece"], tuple(Bin(**one) for one in value["bins"]))


@dataclass
class ConfidenceTally:
    """Confidence counted batch by batch.

    Attributes:
        counts: images of each bin.
        sums: of their top-1 probabilities.
        right: how many of them are right.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BINS)
    sums: list[float] = field(default_factory=lambda: [0.0] * BINS)
    right: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, answers: Answers) -> None:
        """Count one batch."""
        chances, right = answers.probability[answers.finite], answers.right[answers.finite]
        bins = np.clip(np.ceil(chances * BINS).astype(np.int64) - 1, 0, BINS - 1)
        for number in np.unique(bins).tolist():
            inside = bins == number
            self.counts[number] += int(inside.sum())
            self.sums[number] += float(chances[inside].sum())
            self.right[number] += int(right[inside].sum())

    def result(self) -> Confidence | None:
        """The calibration so far; None when no image has a probability."""
        return Confidence.of(self.counts, self.sums, self.right)

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
