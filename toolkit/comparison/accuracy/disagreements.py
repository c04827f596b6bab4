"""The images on which an artifact leaves a reference that was sure of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from toolkit.comparison.accuracy.answers import Answers

KEPT = 12
"""Disagreements that are kept of each artifact."""


@dataclass(frozen=True)
class Disagreement:
    """One image on which an artifact and the reference name different classes.

    Attributes:
        image: its index in the test split.
        label: its true class.
        reference: the reference's answer.
        reference_probability: of that answer.
        answer: the artifact's; None when it held NaN or infinity.
        answer_probability: of that answer; None without one.
        margin: the reference's probability of its top-1 minus its top-2 class.
    """

    image: int
    label: str
    reference: str
    reference_probability: float
    answer: str | None
    answer_probability: float | None
    margin: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**value)


@dataclass
class Worst:
    """The disagreements with the largest margins among all batches so far.

    Attributes:
        kept: at most :data:`KEPT`, the worst first; of equal margins the one with the smaller index.
    """

    kept: list[Disagreement] = field(default_factory=list)

    def add(
        self,
        reference: Answers,
        answers: Answers,
        images: Sequence[int],
        labels: Sequence[str],
    ) -> None:
        """Keep what is worse in one batch than what was kept.

        An image that the reference itself gave NaN or infinity for is no disagreement: it has no margin.

        Args:
            reference, answers: in the same class order.
            images: each image's index in the test split.
            labels: the classes' names.
        """
        flipped = np.flatnonzero(reference.finite & (reference.predicted != answers.predicted))
        worst = flipped[np.lexsort((np.asarray(images)[flipped], -reference.margin[flipped]))][:KEPT]
        for row in worst.tolist():
            answered = bool(answers.finite[row])
            self.kept.append(
                Disagreement(
                    image=int(images[row]),
                    label=labels[answers.truth[row]],
                    reference=labels[reference.predicted[row]],
                    reference_probability=float(reference.probability[row]),
                    answer=labels[answers.predicted[row]] if answered else None,
                    answer_probability=float(answers.probability[row]) if answered else None,
                    margin=float(reference.margin[row]),
                )
            )
        self.kept = sorted(self.kept, key=lambda one: (-one.margin, one.image))[:KEPT]

    def result(self) -> tuple[Disagreement, ...]:
        """The worst first."""
        return tuple(self.kept)

    def state(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [one.to_json() for one in self.kept]

    @classmethod
    def restored(cls, state: Sequence[Mapping[str, Any]]) -> Self:
        """What :meth:`state` gave."""
        return cls([Disagreement.from_json(one) for one in state])
