"""Class by class: how often each is recognised, and what is taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.comparison.accuracy.confusion import Confusion
from toolkit.report.artifacts import Artifact
from toolkit.report.plots.confusion import heat_map
from toolkit.report.pointers import at, element, none

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_CLASSES = 30
"""Classes up to which all are shown; of more, those that differ most."""

MOST_PAIRS = 15

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """One class of one artifact: the figure, the bar's length 0..1, and whether the reference does better."""

    figure: "Markup"
    share: float
    worse: bool


@dataclass(frozen=True)
class ClassLine:
    label: str
    images: "Markup"
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ClassTable:
    """Recall by class and artifact.

    Attributes:
        artifacts: one a column.
        lines: one a class.
        classes: how many there are; more than lines when only the worst are shown.
    """

    artifacts: tuple[Artifact, ...]
    lines: tuple[ClassLine, ...]
    classes: int

    @property
    def longest(self) -> int:
        """Letters of the longest name."""
        return max(len(line.label) for line in self.lines)


@dataclass(frozen=True)
class Pair:
    """A class taken for another: how often by the reference, and by another artifact."""

    true: str
    answer: str
    figures: tuple["Markup", ...]


@dataclass(frozen=True)
class Confusions:
    """What was taken for what.

    Attributes:
        maps: heat maps with their titles; empty for many classes.
        pairs: the most frequent confusions; empty for few classes.
        artifacts: whose figures a pair has, in order.
    """

    maps: tuple[tuple[str, "Markup"], ...]
    pairs: tuple[Pair, ...]
    artifacts: tuple[Artifact, ...]


def confusions_of(artifacts: Sequence[Artifact]) -> list[tuple[Artifact, Confusion]]:
    """The artifacts whose answers were counted, on the classes of the first of them."""
    found = [
        (one, Confusion.from_json(one.row["accuracy"]["confusion"]))
        for one in artifacts
        if one.row["accuracy"] and one.row["accuracy"].get("confusion")
    ]
    return [(one, confusion) for one, confusion in found if confusion.labels == found[0][1].labels]


def class_table(artifacts: Sequence[Artifact]) -> ClassTable | None:
    """Recall of each class by each artifact; None when nothing was counted."""
    found = confusions_of(artifacts)
    if not found:
        return None
    totals = [confusion.counts.sum(axis=1) + confusion.unanswered for _, confusion in found]
    recalls = [
        confusion.counts.diagonal() / np.where(total, total, 1)
        for (_, confusion), total in zip(found, totals, strict=True)
    ]
    references = [_reference(one, [other for other, _ in found]) for one, _ in found]
    numbers = _worst(recalls, references) if len(totals[0]) > MOST_CLASSES else range(len(totals[0]))
    lines = []
    for number in numbers:
        cells = []
        for column, (one, _) in enumerate(found):
            recall, compared = float(recalls[column][number]), references[column]
            worse = compared is not None and recall < float(recalls[compared][number])
            pointer = at(one.at, "accuracy", "confusion")
            if totals[column][number]:
                cells.append(Cell(element(pointer, recall, "bound", derived=f"recall {number}"), recall, worse))
            else:
                cells.append(Cell(none(), 0.0, worse=False))
        images = element(
            at(found[0][0].at, "accuracy", "confusion"), int(totals[0][number]), "count", derived=f"images {number}"
        )
        lines.append(ClassLine(found[0][1].labels[number], images, tuple(cells)))
    return ClassTable(tuple(one for one, _ in found), tuple(lines), len(totals[0]))


def _reference(artifact: Artifact, columns: Sequence[Artifact]) -> int | None:
    """The column of the reference of an artifact; None for the reference itself and where it isn't shown."""
    if artifact.is_reference:
        return None
    return next((number for number, one in enumerate(columns) if one.index == artifact.reference), None)


def _worst(recalls: Sequence[NDArray[Any]], references: Sequence[int | None]) -> list[int]:
    """The classes that lose most against the reference in any artifact; without a reference, the least recognised."""
    losses = [recalls[other] - own for own, other in zip(recalls, references, strict=True) if other is not None]
    worst = np.max(losses, axis=0) if losses else -np.min(recalls, axis=0)
    chosen = np.argsort(-worst, kind="stable")[:MOST_CLASSES]
    return [int(number) for number in chosen]


def confusions(artifacts: Sequence[Artifact]) -> Confusions | None:
    """The reference's confusions and how the recommended artifact's differ; None when nothing was counted."""
    found = confusions_of(artifacts)
    if not found:
        return None
    first = next((pair for pair in found if pair[0].is_reference), found[0])
    second = _second(first[0], found)
    labels = first[1].labels
    shown = [first, *([second] if second else [])]
    if len(labels) > MOST_CLASSES:
        return Confusions((), _pairs(shown), tuple(one for one, _ in shown))
    maps = []
    if len(labels) > 1:
        one, confusion = first
        where = at(one.at, "accuracy", "confusion")
        drawn = heat_map(confusion.counts, labels, name="confusion", pointer=where, label=_fact(one, confusion))
        maps.append((one.name, drawn))
        if second and not np.array_equal(second[1].counts, confusion.counts):
            other = second[0]
            difference = second[1].counts - confusion.counts
            changed = int(np.abs(difference).sum() // 2)
            drawn = heat_map(
                difference,
                labels,
                name="difference",
                pointer=at(other.at, "accuracy", "confusion"),
                signed=True,
                label=f"Confusions of {other.name} minus those of {one.name}: {changed} answers apart.",
            )
            maps.append((f"{other.name} minus {one.name}", drawn))
    return Confusions(tuple(maps), (), tuple(one for one, _ in shown))


def _second(first: Artifact, found: Sequence[tuple[Artifact, Confusion]]) -> tuple[Artifact, Confusion] | None:
    """Whose confusions are held against the first one's: the recommended artifact's, else those that differ most."""
    others = [pair for pair in found if pair[0].index != first.index]
    own = next(confusion for one, confusion in found if one.index == first.index)
    return max(
        others, key=lambda pair: (pair[0].recommended, int(np.abs(pair[1].counts - own.counts).sum())), default=None
    )


def _fact(artifact: Artifact, confusion: Confusion) -> str:
    wrong = _errors(confusion.counts)
    text = f"Confusion matrix of {artifact.name}, true class against answer."
    if not wrong.any():
        return f"{text} Nothing is taken for anything else."
    true, answer = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return f"{text} Most often {confusion.labels[true]} is taken for {confusion.labels[answer]}: {wrong.max()} times."


def _errors(counts: Counts) -> Counts:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def _pairs(shown: Sequence[tuple[Artifact, Confusion]]) -> tuple[Pair, ...]:
    wrong = [_errors(confusion.counts) for _, confusion in shown]
    most = np.max(wrong, axis=0)
    true, answer = np.nonzero(most)
    order = np.lexsort((answer, true, -most[true, answer]))[:MOST_PAIRS]
    labels = shown[0][1].labels
    return tuple(
        Pair(
            labels[true[number]],
            labels[answer[number]],
            tuple(
                element(
                    at(one.at, "accuracy", "confusion"),
                    int(counts[true[number], answer[number]]),
                    "count",
                    derived=f"cell {true[number]} {answer[number]}",
                )
                for (one, _), counts in zip(shown, wrong, strict=True)
            ),
        )
        for number in order
    )
