"""What an artifact answered to one batch, in the reference's class order: the numbers that every tally counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Array64 = NDArray[np.float64]

TOP_K = 5

LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""What a probability below it counts as in a logarithm: one that an engine rounds to 0 makes no KL infinite."""

_SUM_TOLERANCE = 0.01
"""How far from 1 probabilities may add up: float16 is off by up to 0.005 over a thousand classes."""


@dataclass(frozen=True)
class Answers:
    """One batch's answers.

    Attributes:
        values: float64 [N, classes], the logits, or the probabilities where the artifact gives those; rows
            that aren't finite are zero.
        logarithms: float64 [N, classes], of the probabilities.
        finite: bool [N], no value is NaN or infinite.
        predicted: int64 [N], the top-1 class, -1 where not finite. Of equal values the one that comes first in
            the artifact's own order, as it would answer.
        probability: float64 [N], of that class, 0 where not finite.
        margin: float64 [N], that minus the next class's probability, 0 where not finite.
        right: bool [N].
        among: bool [N], the true class is among the five largest.
        truth: int64 [N], the true classes.
        probabilities: whether ``values`` are probabilities.
    """

    values: Array64
    logarithms: Array64
    finite: NDArray[np.bool_]
    predicted: Labels
    probability: Array64
    margin: Array64
    right: NDArray[np.bool_]
    among: NDArray[np.bool_]
    truth: Labels
    probabilities: bool

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        labels: Labels,
        *,
        to_reference: Labels | None = None,
        probabilities: bool = False,
    ) -> "Answers":
        """Read one batch of answers.

        Args:
            values: float32 [N, classes], logits or probabilities, in the artifact's own class order.
            labels: int64 [N], the true classes in the same order.
            to_reference: int64 [classes], each class's number in the reference's order; None where they are equal.
            probabilities: the values are probabilities and are taken as they are.
        """
        finite = np.asarray(np.isfinite(values).all(axis=1))
        own = np.where(finite[:, None], values, 0).astype(np.float64)
        predicted = own.argmax(axis=1).astype(np.int64)
        right = finite & (predicted == labels)
        among = finite & (ranks(own, labels) < TOP_K)
        if to_reference is not None:
            own = np.take(own, np.argsort(to_reference), axis=1)
            predicted, labels = to_reference[predicted], to_reference[labels]
        logarithms = np.log(np.maximum(own, LEAST_PROBABILITY)) if probabilities else _log_softmax(own)
        chances = np.clip(own, 0, 1) if probabilities else np.exp(logarithms)
        if own.shape[1] > 1:
            second, first = np.partition(chances, -2, axis=1)[:, -2:].T
        else:
            first, second = chances[:, 0], np.zeros(len(own))
        return cls(
            values=own,
            logarithms=logarithms,
            finite=finite,
            predicted=np.where(finite, predicted, -1),
            probability=np.where(finite, first, 0),
            margin=np.where(finite, first - second, 0),
            right=right,
            among=among,
            truth=labels,
            probabilities=probabilities,
        )


def _log_softmax(logits: Array64) -> Array64:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def are_probabilities(values: NDArray[np.float32]) -> bool | None:
    """Whether an artifact's answers are probabilities already: none negative, and each row adds up to 1.

    No file says it reliably, and a batch of logits never looks like that by accident.

    Args:
        values: float32 [N, classes].

    Returns:
        None when no row is finite, so that it can't be told.
    """
    rows = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if not rows.size:
        return None
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= _SUM_TOLERANCE).all())


def ranks(values: NDArray[np.floating], labels: Labels) -> Labels:
    """How many classes come before the label: 0 is top-1. Equal values rank in class order, as argmax has it."""
    own = np.take_along_axis(values, labels[:, None], axis=1)
    earlier = np.arange(values.shape[1]) < labels[:, None]
    before: NDArray[np.bool_] = (values > own) | ((values == own) & earlier)
    return np.asarray(before.sum(axis=1), np.int64)


def class_map(labels: Sequence[str], reference: Sequence[str]) -> Labels | None:
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
