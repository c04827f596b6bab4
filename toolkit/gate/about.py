"""What a baseline holds besides the logits."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from engines.metadata import ModelMetadata
from toolkit.comparison.records.record import DataFacts
from toolkit.comparison.records.row import Row
from toolkit.data import Dataset
from toolkit.gate.distance import Distance
from toolkit.machine import Machine

FORMAT = "onnx-tensorrt-toolkit/baseline"
VERSION = 1


@dataclass(frozen=True)
class About:
    """Everything in a baseline but the logits.

    Attributes:
        created: UTC, ISO 8601.
        command: the command that wrote it.
        row: what was measured of the artifact; its timings were not interleaved with anybody's.
        metadata: its labels and preprocessing.
        machine: where.
        data: on what.
        labels: digest of the labels of the pictures, in their order, and of the classes' names.
        floor: its response to the disturbance; nothing counted where it wasn't measured.
        threads: CPU threads asked for; None for the backend's choice.
        settings: how it was timed.
        warnings: what cast doubt on the times.
    """

    created: str
    command: str
    row: Row
    metadata: ModelMetadata
    machine: Machine
    data: DataFacts
    labels: str
    floor: Distance
    threads: int | None
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": self.created,
            "command": self.command,
            "row": self.row.to_json(),
            "metadata": self.metadata.to_json(),
            "machine": self.machine.to_json(),
            "data": self.data.to_json(),
            "labels": self.labels,
            "floor": self.floor.to_json(),
            "threads": self.threads,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote; what is none raises whatever it trips over."""
        return cls(
            created=str(value["created"]),
            command=str(value["command"]),
            row=Row.from_json(value["row"]),
            metadata=ModelMetadata.from_json(value["metadata"]),
            machine=Machine.from_json(value["machine"]),
            data=DataFacts.from_json(value["data"]),
            labels=str(value["labels"]),
            floor=Distance.from_json(value["floor"]),
            threads=None if value["threads"] is None else int(value["threads"]),
            settings=dict(value["settings"]),
            warnings=tuple(map(str, value["warnings"])),
        )


def labels_digest(dataset: Dataset) -> str:
    """``sha256:...`` of the test split's labels and the classes' names: other data is told before it is decoded."""
    digest = hashlib.sha256(json.dumps([dataset.labels, len(dataset.test)]).encode())
    digest.update(np.ascontiguousarray(dataset.test.labels, "<i8").tobytes())
    return f"sha256:{digest.hexdigest()}"
