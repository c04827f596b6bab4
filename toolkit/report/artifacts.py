"""The artifacts as the page knows them: their colour, marker and short name, and the role each has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report.pointers import at

COLOURS = 8
"""Colours of the palette besides the reference's; the page's style sheet names them --c1 and so on."""

MARKERS = ("s", "^", "D", "v", "P", "X", "h", "p", "<", ">", "d", "*")
"""Of matplotlib, in turn, so that artifacts that share a colour differ in shape; the reference has "o"."""


@dataclass(frozen=True)
class Artifact:
    """One row of the record.

    Attributes:
        index: of the row.
        row: its JSON.
        colour: number of its colour; 0 is the reference's.
        marker: matplotlib's name of its marker.
        is_reference: others are held against it.
        reference: index of the row that it is held against; None without one.
        recommended: a verdict recommends it.
        dominated: a verdict says that another is better in everything.
    """

    index: int
    row: Mapping[str, Any]
    colour: int
    marker: str
    is_reference: bool
    reference: int | None
    recommended: bool
    dominated: bool

    @property
    def at(self) -> str:
        """The pointer of its row."""
        return at("rows", self.index)

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def short(self) -> str:
        """Its name for plots: the middle of a long one left out."""
        return shortened(self.name)

    @property
    def ran(self) -> bool:
        """There are figures of it."""
        return bool(self.row["accuracy"] or self.row.get("fidelity") or self.row["speed"])

    def speed_at(self, batch: int) -> str | None:
        """The pointer of its speed at a batch size; None where it wasn't measured."""
        for number, speed in enumerate(self.row["speed"]):
            if speed["batch"] == batch:
                return at(self.at, "speed", number)
        return None


def artifacts_of(record: Mapping[str, Any]) -> list[Artifact]:
    """The record's rows in their order."""
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    names = {row["name"]: index for index, row in enumerate(rows)}
    subjects: dict[str, set[str]] = {}
    for verdict in record["verdicts"]:
        subjects.setdefault(verdict["kind"], set()).add(verdict["subject"])
    made: list[Artifact] = []
    others = 0
    for index, row in enumerate(rows):
        parts = record.get("parts") or ()
        reference = parts[row["machine"]]["reference"] if parts else record["reference"]
        is_reference = row["name"] == reference
        first = is_reference and not any(one.colour == 0 for one in made)
        made.append(
            Artifact(
                index=index,
                row=row,
                colour=0 if first else others % COLOURS + 1,
                marker="o" if first else MARKERS[(others + others // COLOURS) % len(MARKERS)],
                is_reference=is_reference,
                reference=names.get(reference) if reference is not None else None,
                recommended=row["name"] in subjects.get("recommended", ()),
                dominated=row["name"] in subjects.get("dominated", ()),
            )
        )
        others += not first
    return made


def shortened(name: str, most: int = 26) -> str:
    """A name of at most so many characters; what is left out of a longer one is its middle."""
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}…{name[-(most - 1 - head) :]}"
