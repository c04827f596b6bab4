"""One artifact's answers against the reference's, on the same images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log10
from typing import Any, Self

import numpy as np

from toolkit.benchmarking.timing import Interval
from toolkit.comparison.accuracy.answers import Answers
from toolkit.comparison.accuracy.paired import mcnemar, paired_interval
from toolkit.comparison.accuracy.shares import Share

CONFIDENT = 0.5
"""The reference's margin above which a flip is one that it had no doubt about."""


@dataclass(frozen=True)
class Against:
    """How an artifact's answers differ from the reference's.

    An image on which either gives NaN or infinity is a flip; it has no part in ``kl`` and ``sqnr_db``.

    Attributes:
        flips: images whose top-1 class is another than the reference's.
        weighted: the reference's margins (probability of its top-1 minus its top-2 class) summed over the
            flips, over all images: near 0 when only images flip that the reference itself was unsure of.
        confident: flips with a margin above :data:`CONFIDENT`.
        helped: images that this gets right and the reference wrong.
        hurt: images that the reference gets right and this wrong.
        drop: accuracy of the reference minus accuracy of this, with its paired 95 % interval
            (:func:`toolkit.comparison.accuracy.paired.paired_interval`).
        p_value: McNemar's exact test that both are equally good.
        kl: mean over images of KL(reference || this) of the probabilities, in nats.
        sqnr_db: 10 log10(sum reference^2 / sum (reference - this)^2) over all logits, or over all probabilities
            where both give those; None where they are identical, or of different kinds.
    """

    flips: Share
    weighted: float
    confident: int
    helped: int
    hurt: int
    drop: Interval
    p_value: float
    kl: float | None = None
    sqnr_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "flips": self.flips.to_json(),
            "weighted": self.weighted,
            "confident": self.confident,
            "helped": self.helped,
            "hurt": self.hurt,
            "drop": {"value": self.drop.value, "low": self.drop.low, "high": self.drop.high},
            "p_value": self.p_value,
            "kl": self.kl,
            "sqnr_db": self.sqnr_db,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        drop = value["drop"]
        return cls(
            flips=Share.from_json(value["flips"]),
            weighted=value["weighted"],
            confident=value["confident"],
            helped=value["helped"],
            hurt=value["hurt"],
            drop=Interval(drop["value"], drop["low"], drop["high"]),
            p_value=value["p_value"],
            kl=value["kl"],
            sqnr_db=value["sqnr_db"],
        )


@dataclass
class AgainstTally:
    """What :class:`Against` is made of, counted batch by batch.

    Attributes:
        images: counted so far.
        flips, confident, helped, hurt: as there.
        margins: sum of the reference's margins over the flips.
        divergence: sum over images of KL(reference || this), in nats.
        comparable: images with an answer of both.
        signal, noise: sums of squares of the reference's values, and of the differences.
        alike: both give logits, or both probabilities.
    """

    images: int = 0
    flips: int = 0
    confident: int = 0
    helped: int = 0
    hurt: int = 0
    margins: float = 0.0
    divergence: float = 0.0
    comparable: int = 0
    signal: float = 0.0
    noise: float = 0.0
    alike: bool = True

    def add(self, reference: Answers, answers: Answers) -> None:
        """Count one batch, both in the same class order."""
        both = reference.finite & answers.finite
        flipped = ~both | (reference.predicted != answers.predicted)
        self.images += len(both)
        self.flips += int(flipped.sum())
        self.confident += int((flipped & (reference.margin > CONFIDENT)).sum())
        self.helped += int((answers.right & ~reference.right).sum())
        self.hurt += int((reference.right & ~answers.right).sum())
        self.margins += float(reference.margin[flipped].sum())
        self.comparable += int(both.sum())
        first, second = reference.logarithms[both], answers.logarithms[both]
        chances = reference.values[both] if reference.probabilities else np.exp(first)
        self.divergence += float((chances * (first - second)).sum())
        self.alike = (
            reference.probabilities == answers.probabilities
        )  # the latest knows best: it is learnt on the way
        self.signal += float(np.square(reference.values[both]).sum())
        self.noise += float(np.square(reference.values[both] - answers.values[both]).sum())

    def result(self) -> Against | None:
        """The figures so far; None when nothing was compared."""
        if not self.images:
            return None
        low, high = paired_interval(self.hurt, self.helped, self.images)
        measurable = self.alike and self.signal > 0 and self.noise > 0
        return Against(
            flips=Share(self.flips, self.images),
            weighted=self.margins / self.images,
            confident=self.confident,
            helped=self.helped,
            hurt=self.hurt,
            drop=Interval((self.hurt - self.helped) / self.images, low, high),
            p_value=mcnemar(self.hurt, self.helped),
            kl=max(0.0, self.divergence / self.comparable) if self.comparable else None,
            sqnr_db=10 * log10(self.signal / self.noise) if measurable else None,
        )

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
