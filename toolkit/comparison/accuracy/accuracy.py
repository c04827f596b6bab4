"""What one artifact got right, and how its answers differ from the reference's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from toolkit.comparison.accuracy.against import Against
from toolkit.comparison.accuracy.confidence import Confidence
from toolkit.comparison.accuracy.confusion import Confusion
from toolkit.comparison.accuracy.disagreements import Disagreement
from toolkit.comparison.accuracy.shares import Share

__all__ = ["Accuracy", "Against", "Confidence", "Confusion", "Disagreement", "Share"]


@dataclass(frozen=True)
class Accuracy:
    """What one artifact got right.

    Attributes:
        top1: images whose label has the largest logit.
        top5: images whose label is among the five largest; None for five classes or fewer.
        agreement: images for which it names the same class as the reference; None without one.
        non_finite: images whose logits hold NaN or infinity: wrong, and in disagreement, by definition.
        confusion: true against predicted classes; None for more than ``MOST_CLASSES`` classes.
        confidence: the calibration of its probabilities; None when no image has any.
        against: against the reference; None without one, and for the reference itself.
        disagreements: the worst, by the reference's margin, the worst first.
    """

    top1: Share
    top5: Share | None
    agreement: Share | None
    non_finite: int
    confusion: Confusion | None = None
    confidence: Confidence | None = None
    against: Against | None = None
    disagreements: tuple[Disagreement, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "top1": self.top1.to_json(),
            "top5": self.top5 and self.top5.to_json(),
            "agreement": self.agreement and self.agreement.to_json(),
            "non_finite": self.non_finite,
            "confusion": self.confusion and self.confusion.to_json(),
            "confidence": self.confidence and self.confidence.to_json(),
            "against": self.against and self.against.to_json(),
            "disagreements": [one.to_json() for one in self.disagreements],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote, or an earlier version that had only the shares."""

        def share(name: str) -> Share | None:
            return Share.from_json(value[name]) if value[name] else None

        confusion, confidence, against = (value.get(name) for name in ("confusion", "confidence", "against"))
        return cls(
            top1=Share.from_json(value["top1"]),
            top5=share("top5"),
            agreement=share("agreement"),
            non_finite=value["non_finite"],
            confusion=Confusion.from_json(confusion) if confusion else None,
            confidence=Confidence.from_json(confidence) if confidence else None,
            against=Against.from_json(against) if against else None,
            disagreements=tuple(Disagreement.from_json(one) for one in value.get("disagreements", ())),
        )
