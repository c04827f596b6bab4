"""The record of a comparison: what was measured, on what, and how; tables and reports are made from it.

``comparison.schema.json`` beside this file is what :meth:`Comparison.to_json` promises.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from toolkit.benchmarking.conditions import Conditions
from toolkit.comparison.goal import Goal
from toolkit.comparison.records.row import ColdStart, Failure, Row, Speed
from toolkit.machine import Machine

__all__ = [
    "SCHEMA",
    "VERSION",
    "ColdStart",
    "Comparison",
    "DataFacts",
    "Failure",
    "Part",
    "Row",
    "Speed",
    "Verdict",
]

SCHEMA = "onnx-tensorrt-toolkit/comparison"
VERSION = 2


@dataclass(frozen=True)
class DataFacts:
    """What accuracy was measured on.

    Attributes:
        name: the data set's.
        split: "test".
        images: how many.
        seed: of the choice and order of images.
        digest: ``sha256:...`` of the pixels that the reference saw and their labels.
    """

    name: str
    split: str
    images: int
    seed: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "split": self.split,
            "images": self.images,
            "seed": self.seed,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["name"], value["split"], value["images"], value["seed"], value["digest"])


@dataclass(frozen=True)
class Verdict:
    """What the figures mean, in one sentence.

    Attributes:
        kind: "recommended", "dominated", "no-faster", "less-accurate", "not-measured", ...
        subject: the name of the row that it is about; empty when it is about all.
        text: the sentence.
        facts: the figures behind it; values of JSON.
    """

    kind: str
    subject: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "subject": self.subject, "text": self.text, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["kind"], value["subject"], value["text"], value["facts"])


@dataclass(frozen=True)
class Part:
    """One of the records that a merged one was made from; its machine is the one at the same index.

    Attributes:
        source: the file's name.
        created, command, settings, data, reference: that record's; the reference by its name in the merged record.
    """

    source: str
    created: str
    command: str
    settings: Mapping[str, Any]
    data: DataFacts | None
    reference: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "created": self.created,
            "command": self.command,
            "settings": dict(self.settings),
            "data": self.data and self.data.to_json(),
            "reference": self.reference,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            value["source"],
            value["created"],
            value["command"],
            value["settings"],
            value["data"] and DataFacts.from_json(value["data"]),
            value["reference"],
        )


@dataclass(frozen=True)
class Comparison:
    """Artifacts measured against each other in one run, or several such runs side by side.

    Attributes:
        created: UTC, ISO 8601.
        command: the command that repeats it.
        machines: where; one but in merged records, where each part has its own.
        settings: how: batch sizes, seconds, rounds, launches, seed.
        data: on what; None when only speed was measured, or when the parts of a merged record have different data.
        reference: the name of the row that agreement and ratios refer to; None when there is none, or when the
            parts of a merged record have one each: :meth:`reference_of` knows.
        rows: one an artifact, in the order given.
        warnings: what casts doubt on the figures.
        conditions: what else went on while it was timed; one a machine, None where nothing was timed.
        verdicts: what the figures mean.
        goal: what the recommendation is for; None where none was asked for.
        pictures: images that artifacts disagree on, by index in the test split: PNG as a data URL.
        complete: everything asked for was measured; an interrupted run leaves a record that is not.
        key: ``sha256:...`` of what is compared and how; the same command continues a record of the same key.
        progress: how far the evaluation of a record that is not complete got; None for all others.
        parts: the records that a merged one was made from; empty but there.
    """

    created: str
    command: str
    machines: tuple[Machine, ...]
    settings: Mapping[str, Any]
    data: DataFacts | None
    reference: str | None
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    conditions: tuple[Conditions | None, ...] = (None,)
    verdicts: tuple[Verdict, ...] = ()
    goal: Goal | None = None
    pictures: Mapping[int, str] = field(default_factory=dict)
    complete: bool = True
    key: str = ""
    progress: Mapping[str, Any] | None = None
    parts: tuple[Part, ...] = ()

    @property
    def machine(self) -> Machine:
        """Where; of a merged record the first part's machine."""
        return self.machines[0]

    @property
    def counted(self) -> str:
        """What the data was counted in: "images", or "samples" of a network that isn't a classifier of pictures."""
        return "samples" if any(row.fidelity for row in self.rows) else "images"

    @property
    def sources(self) -> tuple[str, ...]:
        """File names of the records that a merged one was made from."""
        return tuple(part.source for part in self.parts)

    def row(self, name: str) -> Row:
        """The row of this name; KeyError when there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def reference_of(self, row: Row) -> str | None:
        """The name of the row that this row's agreement and ratios refer to."""
        return self.parts[row.machine].reference if self.parts else self.reference

    def data_of(self, row: Row) -> DataFacts | None:
        """What this row's accuracy was measured on."""
        return self.parts[row.machine].data if self.parts else self.data

    def to_json(self) -> dict[str, Any]:
        """The record; times in seconds, sizes in bytes, rates from 0 to 1."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "created": self.created,
            "command": self.command,
            "complete": self.complete,
            "key": self.key,
            "machines": [machine.to_json() for machine in self.machines],
            "conditions": [conditions and conditions.to_json() for conditions in self.conditions],
            "settings": dict(self.settings),
            "data": self.data and self.data.to_json(),
            "reference": self.reference,
            "goal": self.goal and self.goal.to_json(),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "rows": [row.to_json() for row in self.rows],
            "pictures": {str(image): url for image, url in self.pictures.items()},
            "warnings": list(self.warnings),
            "progress": None if self.progress is None else dict(self.progress),
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote; ``toolkit.comparison.records.reading`` checks that it is that."""
        return cls(
            created=value["created"],
            command=value["command"],
            machines=tuple(map(Machine.from_json, value["machines"])),
            settings=value["settings"],
            data=value["data"] and DataFacts.from_json(value["data"]),
            reference=value["reference"],
            rows=tuple(map(Row.from_json, value["rows"])),
            warnings=tuple(value["warnings"]),
            conditions=tuple(one and Conditions.from_json(one) for one in value["conditions"]),
            verdicts=tuple(map(Verdict.from_json, value["verdicts"])),
            goal=value["goal"] and Goal.from_json(value["goal"]),
            pictures={int(image): url for image, url in value["pictures"].items()},
            complete=value["complete"],
            key=value["key"],
            progress=value["progress"],
            parts=tuple(map(Part.from_json, value["parts"])),
        )
