"""Accuracy counted batch by batch, so that any number of images takes the memory of one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.comparison.accuracy.against import AgainstTally
from toolkit.comparison.accuracy.answers import TOP_K, Answers, Labels, are_probabilities
from toolkit.comparison.accuracy.confidence import ConfidenceTally
from toolkit.comparison.accuracy.confusion import MOST_CLASSES, ConfusionTally
from toolkit.comparison.accuracy.disagreements import Worst
from toolkit.comparison.accuracy.shares import Share


@dataclass
class Tally:
    """Counts over the batches of one artifact.

    Attributes:
        labels: the classes' names, in the reference's order where there is one.
        to_reference: int64 [classes], each class's number in that order; None where the orders are equal.
    """

    labels: tuple[str, ...]
    to_reference: Labels | None = None
    images: int = 0
    right: int = 0
    among: int = 0
    non_finite: int = 0
    probabilities: bool | None = None
    confusion: ConfusionTally | None = field(init=False)
    confidence: ConfidenceTally = field(default_factory=ConfidenceTally)
    against: AgainstTally = field(default_factory=AgainstTally)
    worst: Worst = field(default_factory=Worst)

    def __post_init__(self) -> None:
        """Make room for the confusion where it isn't too large."""
        self.confusion = ConfusionTally.empty(len(self.labels)) if len(self.labels) <= MOST_CLASSES else None

    def read(self, values: NDArray[np.float32], labels: Labels) -> Answers:
        """What one batch of answers says, in the reference's class order; counts nothing.

        Args:
            values: float32 [N, classes], logits or probabilities in the artifact's own class order.
            labels: int64 [N], the true class numbers in that order.
        """
        if self.probabilities is None:
            self.probabilities = are_probabilities(values)
        return Answers.of(values, labels, to_reference=self.to_reference, probabilities=bool(self.probabilities))

    def add(
        self,
        answers: Answers,
        images: Sequence[int],
        reference: Answers | None = None,
    ) -> None:
        """Count one batch.

        Args:
            answers: what :meth:`read` made of it.
            images: [N], the images' indices in the test split.
            reference: the reference's answers to the same images; None without a reference.
        """
        self.images += len(answers.finite)
        self.right += int(answers.right.sum())
        self.among += int(answers.among.sum())
        self.non_finite += int((~answers.finite).sum())
        self.confidence.add(answers)
        if self.confusion is not None:
            self.confusion.add(answers)
        if reference is not None:
            self.against.add(reference, answers)
            self.worst.add(reference, answers, images, self.labels)

    def result(self, *, with_reference: bool = True) -> Accuracy:
        """The figures; at least one image must have been counted.

        Args:
            with_reference: include what was counted against the reference; not if that failed half-way.
        """
        against = self.against.result() if with_reference else None
        return Accuracy(
            top1=Share(self.right, self.images),
            top5=Share(self.among, self.images) if len(self.labels) > TOP_K else None,
            agreement=Share(self.images - against.flips.count, self.images) if against else None,
            non_finite=self.non_finite,
            confusion=self.confusion.result(self.labels) if self.confusion is not None else None,
            confidence=self.confidence.result(),
            against=against,
            disagreements=self.worst.result() if against else (),
        )

    def state(self) -> dict[str, Any]:
        """Everything counted so far, as JSON has it; :meth:`restore` takes it up again."""
        return {
            "labels": list(self.labels),
            "images": self.images,
            "right": self.right,
            "among": self.among,
            "non_finite": self.non_finite,
            "probabilities": self.probabilities,
            "confusion": self.confusion.state() if self.confusion is not None else None,
            "confidence": self.confidence.state(),
            "against": self.against.state(),
            "worst": self.worst.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave of a tally with the same labels.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if tuple(state["labels"]) != self.labels:
            raise ValueError("the counts are of other classes")
        self.images, self.right, self.among, self.non_finite = (
            int(state[name]) for name in ("images", "right", "among", "non_finite")
        )
        self.probabilities = state["probabilities"]
        if self.confusion is not None:
            self.confusion = ConfusionTally.restored(state["confusion"], len(self.labels))
        self.confidence = ConfidenceTally(**state["confidence"])
        self.against = AgainstTally(**state["against"])
        self.worst = Worst.restored(state["worst"])
