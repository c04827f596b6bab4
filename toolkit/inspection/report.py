"""The form in which every artifact is described: facts and tables to show, one object to process."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import ToolkitError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec


@dataclass(frozen=True)
class Facts:
    """Names and values, one a line."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        title: what it lists.
        columns: the headings.
        rows: a text for every column.
        numbers: the places of the columns that are aligned to the right.
        total: a last row, set apart.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    total: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Report:
    """What an artifact holds.

    Attributes:
        kind: "checkpoint", "graph", "plan", "table" or "passport".
        path: the file.
        sections: what to show people.
        value: the same and more for programs, as JSON can hold it.
        damage: why the file isn't to be used although it could be described: it isn't what its passport says.
    """

    kind: str
    path: Path
    sections: tuple[Facts | Table, ...]
    value: Mapping[str, Any] = field(default_factory=dict)
    damage: ToolkitError | None = None

    def to_json(self) -> dict[str, Any]:
        """One object: kind, file, size in bytes and what is known of this kind."""
        value = {"kind": self.kind, "file": str(self.path), "size": self.path.stat().st_size, **self.value}
        plain: dict[str, Any] = as_json(value)
        return plain


def as_json(value: Any) -> Any:
    """``value`` with tuples as lists, and what JSON lacks (NaN, infinities) as text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def metadata_facts(metadata: ModelMetadata | None, title: str = "model") -> Facts:
    """Architecture, labels, preprocessing and origin, for people."""
    if metadata is None:
        return Facts(title, (("metadata", "none: a foreign file, toolkit can't know its labels and preprocessing"),))
    classes = f"{len(metadata.labels)}: {short_list(metadata.labels)}" if metadata.labels else "none: no classifier"
    rows = [("architecture", metadata.architecture), ("classes", classes)]
    if metadata.scores == "probabilities":
        rows.append(("scores", "probabilities: softmax has been taken"))
    if metadata.pictures is not None:
        rows.append(("preprocessing", describe(metadata.pictures)))
    for name, specs in (("takes", metadata.inputs), ("gives", metadata.outputs)):
        if specs:
            rows.append((name, "; ".join(map(str, specs))))
    if metadata.uint8_input:
        rows.append(("input", "raw uint8 pixels; the graph normalises them itself"))
    rows += [(f"origin: {name}", short_digest(value)) for name, value in metadata.origin.items()]
    return Facts(title, tuple(rows))


def describe(preprocess: Preprocess) -> str:
    """The preprocessing in one line."""
    colours = "RGB" if preprocess.channels == 3 else "grey"
    how = "stretched" if preprocess.resize == "stretch" else f"centre crop of {preprocess.crop_fraction:g}"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return (
        f"{preprocess.height}×{preprocess.width} {colours}, {how}, {preprocess.interpolation}, mean {mean}, std {std}"
    )


def tensor_facts(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[tuple[str, str]]:
    """A line for every input and output."""
    return [("input", str(spec)) for spec in inputs] + [("output", str(spec)) for spec in outputs]


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as lines "outer.inner"; lists joined, long ones cut."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", short_list([_text(item) for item in value])))
        else:
            rows.append((f"{prefix}{name}", _text(value)))
    return rows


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return short_digest(str(value))


def short_list(items: Sequence[str], most: int = 8) -> str:
    """The first few of ``items``, and how many more there are."""
    more = f", … ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def short_digest(text: str) -> str:
    """A digest cut to what people compare; any other text as it is."""
    return text[:19] + "…" if text.startswith("sha256:") and len(text) > 20 else text


def size_text(size: float) -> str:
    """Bytes for people: "233 MB" (10^6 bytes)."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def count_text(count: int) -> str:
    """A count with its thousands apart: "61,100,840"."""
    return f"{count:,}"
