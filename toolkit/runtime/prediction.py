"""What a picture shows: the likeliest classes with their probabilities."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidate:
    """One class that a picture may show.

    Attributes:
        label: the class's name.
        index: its place among the logits.
        probability: from 0 to 1, the softmax over all classes (taken by the network itself, or here).
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a picture shows.

    Attributes:
        top: the likeliest classes, the likeliest first; equal ones in the order of their index.
    """

    top: tuple[Candidate, ...]

    @property
    def label(self) -> str:
        """The likeliest class's name."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """The likeliest class's place among the logits."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """The likeliest class's probability, from 0 to 1."""
        return self.top[0].probability

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "top": [asdict(candidate) for candidate in self.top]}


def likeliest(
    scores: NDArray[np.float64], labels: Sequence[str], top: int, *, probabilities: bool = False
) -> list[Prediction]:
    """The ``top`` likeliest classes of each row of logits, or of probabilities.

    Args:
        scores: float64 [N, classes], finite.
        labels: the classes' names; empty calls them by their index.
        top: how many; all of them where there are fewer.
        probabilities: the scores are probabilities already: no softmax is taken.

    Returns:
        One prediction a row.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    chances = np.clip(scores, 0, 1) if probabilities else softmax(scores)
    chosen = np.take_along_axis(chances, order, axis=1)
    return [
        Prediction(
            tuple(
                Candidate(labels[index] if labels else str(index), index, probability)
                for index, probability in zip(indices, probabilities, strict=True)
            )
        )
        for indices, probabilities in zip(order.tolist(), chosen.tolist(), strict=True)
    ]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from logits [N, classes], float64; the largest logit is subtracted first, so none overflows."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result
