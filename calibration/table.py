"""The calibration table: a range a tensor, neutral of any target, and the digests of what made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.fields import LARGEST, listed, mapped, numbers, one_of
from engines.errors import TableError
from engines.files import digest_bytes, read_text, write_atomically

FORMAT = "onnx-tensorrt-toolkit/calibration"
VERSION = 2
SUFFIX = ".calibration.json"
PRECISIONS = ("int8", "fp8")
WEIGHT_CLIPS = ("max", "mse")
_FACTORS = (2.0**-64, 2.0**64)
"""Factors beyond these overflow float32 in ordinary weights."""


@dataclass(frozen=True)
class TensorRange:
    """What is known of one tensor, and of those that only move its values on.

    Attributes:
        amax: the magnitude at which it is clipped; 0 for a tensor that is always zero.
        minimum, maximum: the smallest and the largest value seen.
        tap: the tensor at which it was measured.
        count: how many values were seen.
        method: how amax was chosen, where that differs from tensor to tensor; "" says: as the table does.
        signature: what identifies the tensor whatever its name (:mod:`calibration.signature`); "" where unknown.
    """

    amax: float
    minimum: float
    maximum: float
    tap: str = ""
    count: int = 0
    method: str = ""
    signature: str = ""

    @property
    def low(self) -> float:
        """The lower end of what is kept: not below what was seen, never above zero."""
        return min(0.0, max(-self.amax, self.minimum))

    @property
    def high(self) -> float:
        """The upper end of what is kept: not above what was seen, never below zero."""
        return max(0.0, min(self.amax, self.maximum))


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges by tensor name, and what they were made from.

    Attributes:
        ranges: by the name of the tensor, or of the first of those that share the range.
        method: how amax was chosen ("entropy"; "auto" where several were measured).
        weights: the digest of the master graph's weights.
        data: the digest of the pixels seen.
        preprocess: the digest of the preprocessing; None for a graph without metadata.
        images: how many were seen.
        facts: what else is worth knowing ("data": the set's name, "seed", "classes").
        precision: what the ranges were chosen for: "int8" or "fp8".
        weight_clip: how the ranges of weights are chosen: "max", or "mse" (:mod:`calibration.weights`).
        keep: nodes that stay unquantised: what an accuracy budget chose, or what the user wrote here.
        equalisation: by the name of a tensor, a factor a channel that the tensor is divided by before it is
            quantised, and the weights that read it multiplied (:mod:`calibration.equalise`).
        biases: by the name of a node, what is added to its bias, a number a channel (:mod:`calibration.bias`).
        seen: a fingerprint of each image that was seen (:mod:`calibration.provenance`); "" where unknown.
        content: the digest of the weights whatever their names (:func:`calibration.signature.content_digest`);
            "" where unknown.
        nodes: what identifies each node that can be kept back whatever its name, by its name.
    """

    ranges: Mapping[str, TensorRange]
    method: str
    weights: str
    data: str | None = None
    preprocess: str | None = None
    images: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "int8"
    weight_clip: str = "max"
    keep: tuple[str, ...] = ()
    equalisation: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    biases: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seen: str = ""
    content: str = ""
    nodes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that :meth:`write` writes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "precision": self.precision,
            "method": self.method,
            "weight_clip": self.weight_clip,
            "images": self.images,
            "digests": {
                "weights": self.weights,
                "content": self.content,
                "data": self.data,
                "preprocess": self.preprocess,
            },
            "facts": dict(self.facts),
            "keep": list(self.keep),
            "seen": self.seen,
            "equalisation": {name: list(values) for name, values in self.equalisation.items()},
            "biases": {name: list(values) for name, values in self.biases.items()},
            "nodes": dict(self.nodes),
            "ranges": {name: vars(value) for name, value in self.ranges.items()},
        }

    @classmethod
    def from_json(cls, value: Any, name: str = "the table") -> "CalibrationTable":
        """Read what :meth:`to_json` made; ``name`` is what errors call it.

        Raises:
            TableError: it isn't that, or is of another version, or a number in it is impossible.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TableError(f"{name} is not a calibration table", "make one with `toolkit calibrate`")
        if value.get("version") != VERSION:
            raise TableError(
                f"{name} is a table of version {value.get('version')}; this toolkit reads version {VERSION}",
                "calibrate again with this version of toolkit",
            )
        try:
            digests = value["digests"]
            ranges = {str(key): _range(key, item) for key, item in mapped("ranges", value["ranges"]).items()}
            return cls(
                ranges,
                str(value["method"]),
                str(digests["weights"]),
                digests.get("data"),
                digests.get("preprocess"),
                int(value["images"]),
                dict(value.get("facts", {})),
                one_of("precision", value.get("precision", "int8"), PRECISIONS),
                one_of("weight_clip", value.get("weight_clip", "max"), WEIGHT_CLIPS),
                tuple(map(str, listed("keep", value.get("keep", [])))),
                numbers("equalisation", value.get("equalisation", {}), *_FACTORS),
                numbers("biases", value.get("biases", {}), -LARGEST, LARGEST),
                str(value.get("seen", "")),
                str(digests.get("content") or ""),
                {str(key): str(item) for key, item in value.get("nodes", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise TableError(f"{name} is damaged: {reason}", "calibrate again") from error

    def summary(self) -> str:
        """One line of what it is."""
        where = f" of {self.facts['data']}" if "data" in self.facts else ""
        classes = f", {self.facts['classes']} classes" if "classes" in self.facts else ""
        what = "images" if self.preprocess else "samples"
        ranges = f"{len(self.ranges)} ranges" + (" for FP8" if self.precision == "fp8" else "")
        if not self.images:
            return f"{ranges} taken over from {self.facts.get('source', 'elsewhere')}"
        return f"{ranges} by {self.method} from {self.images} {what}{where}{classes}"

    def dumps(self) -> str:
        """The table as text, a line a tensor so that versions of it can be compared and edited."""
        value = self.to_json()
        by_line = {name: value.pop(name) for name in ("equalisation", "biases", "nodes", "ranges")}
        head = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)[:-2]
        tail = "".join(f",\n  {json.dumps(name)}: {_lines(items)}" for name, items in by_line.items())
        return f"{head}{tail}\n}}\n"

    def digest(self) -> str:
        """A digest of the table: equal digests mean equal quantisation of equal weights."""
        return digest_bytes(json.dumps(self.to_json(), sort_keys=True).encode())

    def write(self, path: Path | str) -> None:
        """Write the table, whole or not at all.

        Raises:
            InputError: the folder is missing or not writable.
        """
        write_atomically(Path(path), self.dumps())

    @classmethod
    def read(cls, path: Path | str) -> "CalibrationTable":
        """Read a table.

        Raises:
            InputError: the file is missing or can't be read.
            TableError: it is no calibration table, or damaged.
        """
        path = Path(path)
        try:
            text = read_text(path)
        except UnicodeDecodeError as error:
            raise TableError(f"'{path}' is not a calibration table", "make one with `toolkit calibrate`") from error
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            reason = f"not JSON: {error}" if text.strip() else "empty"
            raise TableError(f"'{path}' is no calibration table: {reason}", "calibrate again") from error
        return cls.from_json(value, f"'{path}'")

    def range_of(self, tensor: str) -> TensorRange:
        """The range under the name of a tensor.

        Raises:
            TableError: the table has none.
        """
        found = self.ranges.get(tensor)
        if found is None:
            raise TableError(
                f"the calibration table has no range for tensor '{tensor}'",
                "calibrate this graph: the table was made from one with other tensors",
            )
        return found


def check_table(table: CalibrationTable, weights: str, preprocess: str | None) -> None:
    """Refuse a table that was made from other weights or with other preprocessing.

    Args:
        table: the table.
        weights: the digest of the master graph's weights now.
        preprocess: the digest of its preprocessing now; None for a graph without metadata.

    Raises:
        TableError: naming what changed.
    """
    changed = []
    if table.weights != weights:
        changed.append(f"the weights (then {_short(table.weights)}, now {_short(weights)})")
    if preprocess is not None and table.preprocess is not None and table.preprocess != preprocess:
        changed.append(f"the preprocessing (then {_short(table.preprocess)}, now {_short(preprocess)})")
    if changed:
        raise TableError(
            f"the calibration table is stale: {' and '.join(changed)} changed since", "calibrate the graph again"
        )


def _lines(items: Mapping[str, Any]) -> str:
    """A JSON object, a line an item."""
    if not items:
        return "{}"
    lines = (
        f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(item, allow_nan=False)}"
        for name, item in items.items()
    )
    return "{\n" + ",\n".join(lines) + "\n  }"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _range(name: object, value: Mapping[str, Any]) -> TensorRange:
    result = TensorRange(
        float(value["amax"]),
        float(value["minimum"]),
        float(value["maximum"]),
        str(value.get("tap", name)),
        int(value.get("count", 0)),
        str(value.get("method", "")),
        str(value.get("signature", "")),
    )
    if not all(abs(number) <= LARGEST for number in (result.amax, result.minimum, result.maximum)) or result.amax < 0:
        raise ValueError(f"the range of '{name}' is {result.amax} over {result.minimum} .. {result.maximum}")
    if result.minimum > result.maximum:
        raise ValueError(f"the minimum of '{name}' is above its maximum")
    return result
