"""What was taken for what: true class against predicted class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from toolkit.comparison.accuracy.answers import Answers

Counts = NDArray[np.int64]

MOST_CLASSES = 2048
"""Classes beyond which no confusion is counted: its table would take more memory than the images."""


@dataclass(frozen=True)
class ClassScore:
    """One class of a classifier.

    Attributes:
        label: its name.
        images: how many are of it.
        right: how many of those were recognised.
        predicted: how many images were taken for it.
        precision: right / predicted; None when none was taken for it.
        recall: right / images; None when there is no image of it.
        f1: their harmonic mean, 2 right / (images + predicted); None when both are zero.
    """

    label: str
    images: int
    right: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class was taken for each.

    Attributes:
        labels: the classes' names; those of the reference, in its order, where there is one.
        counts: int64 [true, predicted].
        unanswered: int64 [true], images whose answer held NaN or infinity.
    """

    labels: tuple[str, ...]
    counts: Counts
    unanswered: Counts

    def __eq__(self, other: object) -> bool:
        """Equal names and equal counts."""
        return (
            isinstance(other, Confusion)
            and self.labels == other.labels
            and np.array_equal(self.counts, other.counts)
            and np.array_equal(self.unanswered, other.unanswered)
        )

    __hash__ = None  # type: ignore[assignment]

    def per_class(self) -> tuple[ClassScore, ...]:
        """Each class's score, in the order of the labels; classes without an image too."""
        right = self.counts.diagonal().tolist()
        images = (self.counts.sum(axis=1) + self.unanswered).tolist()
        predicted = self.counts.sum(axis=0).tolist()
        return tuple(
            ClassScore(
                label,
                total,
                hits,
                taken,
                hits / taken if taken else None,
                hits / total if total else None,
                2 * hits / (total + taken) if total + taken else None,
            )
            for label, total, hits, taken in zip(self.labels, images, right, predicted, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Only the cells that aren't zero: [true, predicted, count]."""
        return {
            "labels": list(self.labels),
            "cells": cells_of(self.counts),
            "unanswered": self.unanswered.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        labels = tuple(value["labels"])
        return cls(labels, counts_of(value["cells"], len(labels)), np.array(value["unanswered"], np.int64))


@dataclass
class ConfusionTally:
    """Confusion counted batch by batch.

    Attributes:
        counts: int64 [true, predicted].
        unanswered: int64 [true].
    """

    counts: Counts
    unanswered: Counts

    @classmethod
    def empty(cls, classes: int) -> Self:
        """Nothing counted."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64))

    def add(self, answers: Answers) -> None:
        """Count one batch."""
        truth, finite = answers.truth, answers.finite
        np.add.at(self.counts, (truth[finite], answers.predicted[finite]), 1)
        np.add.at(self.unanswered, truth[~finite], 1)

    def result(self, labels: tuple[str, ...]) -> Confusion:
        """What was counted, under these names."""
        return Confusion(labels, self.counts.copy(), self.unanswered.copy())

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"cells": cells_of(self.counts), "unanswered": self.unanswered.tolist()}

    @classmethod
    def restored(cls, state: Mapping[str, Any], classes: int) -> Self:
        """What :meth:`state` gave."""
        return cls(counts_of(state["cells"], classes), np.array(state["unanswered"], np.int64))


def cells_of(counts: Counts) -> list[list[int]]:
    """The cells of a table that aren't zero, as [row, column, count]."""
    cells: list[list[int]] = np.column_stack([*np.nonzero(counts), counts[counts != 0]]).tolist()
    return cells


def counts_of(cells: list[list[int]], classes: int) -> Counts:
    """The int64 [classes, classes] table that :func:`cells_of` took apart."""
    counts = np.zeros((classes, classes), np.int64)
    for row, column, count in cells:
        counts[row, column] = count
    return counts
