"""The record of a comparison: what was measured, on what, and how; tables and reports are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.benchmarking.messages import Opened
from toolkit.benchmarking.timing import Interval, Timing
from toolkit.comparison.accuracy import Accuracy
from toolkit.machine import Machine

SCHEMA = "onnx-tensorrt-toolkit/comparison"
VERSION = 1


@dataclass(frozen=True)
class Failure:
    """Why an artifact has no figures, or lacks some."""

    cause: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return {"cause": self.cause, "remedy": self.remedy}


@dataclass(frozen=True)
class Speed:
    """One artifact at one batch size.

    Attributes:
        timing: its times.
        ratio: how many times the reference's speed; None without a reference.
    """

    timing: Timing
    ratio: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.timing.to_json(), "ratio": self.ratio and self.ratio.to_json()}


@dataclass(frozen=True)
class Row:
    """One artifact.

    Attributes:
        name: what tables call it.
        path: as it was given.
        size: bytes of its files.
        digest: ``sha256:...`` of the file.
        opened: what its session said of itself; None when it couldn't be opened.
        accuracy: None when it wasn't evaluated.
        speeds: by batch size.
        skipped: why a batch size wasn't measured.
        memory: the most bytes its process held resident.
        failure: why it couldn't be run, or stopped.
        notes: what else a reader of the figures should know.
    """

    name: str
    path: str
    size: int
    digest: str
    opened: Opened | None = None
    accuracy: Accuracy | None = None
    speeds: Mapping[int, Speed] = field(default_factory=dict)
    skipped: Mapping[int, str] = field(default_factory=dict)
    memory: int | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        opened = self.opened
        return {
            "name": self.name,
            "path": self.path,
            "size_bytes": self.size,
            "digest": self.digest,
            "session": opened
            and {
                "backend": opened.info.backend,
                "device": opened.info.device,
                "provider": opened.info.provider,
                "versions": dict(opened.info.versions),
                "max_batch": opened.info.max_batch,
                "inputs": [spec.to_json() for spec in opened.inputs],
                "outputs": [spec.to_json() for spec in opened.outputs],
            },
            "architecture": opened.metadata.architecture if opened and opened.metadata else None,
            "cold_start_seconds": opened and {"open": opened.open_seconds, "first_run": opened.first_seconds},
            "peak_resident_bytes": self.memory,
            "accuracy": self.accuracy and self.accuracy.to_json(),
            "speed": [speed.to_json() for speed in self.speeds.values()],
            "skipped": [{"batch": batch, "reason": reason} for batch, reason in self.skipped.items()],
            "failure": self.failure and self.failure.to_json(),
            "notes": list(self.notes),
        }


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


@dataclass(frozen=True)
class Comparison:
    """Artifacts measured against each other in one run.

    Attributes:
        created: UTC, ISO 8601.
        command: the command that repeats it.
        machine: where.
        settings: how: batch sizes, seconds, rounds, seed.
        data: on what; None when only speed was measured.
        reference: the name of the row that agreement and ratios refer to; None when there is none.
        rows: one an artifact, in the order given.
        warnings: what casts doubt on the figures.
    """

    created: str
    command: str
    machine: Machine
    settings: Mapping[str, Any]
    data: DataFacts | None
    reference: str | None
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """The row of this name; KeyError when there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The record; times in seconds, sizes in bytes, rates from 0 to 1."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "created": self.created,
            "command": self.command,
            "machine": self.machine.to_json(),
            "settings": dict(self.settings),
            "data": self.data and self.data.to_json(),
            "reference": self.reference,
            "rows": [row.to_json() for row in self.rows],
            "warnings": list(self.warnings),
        }
