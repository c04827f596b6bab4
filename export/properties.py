"""What travels inside an ONNX graph: metadata, what it was made from, what was measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.errors import GraphError
from engines.metadata import METADATA_KEY, ModelMetadata
from export.onnxlib import onnx

VERIFICATION_KEY = "toolkit.verification"
"""The property that holds what was measured when the graph was verified, as JSON."""

DERIVED_KEY = "toolkit.derived"
"""The property that holds :meth:`Derived.dumps` in a graph made from a master graph."""


@dataclass(frozen=True)
class Derived:
    """What a typed graph was made from.

    Attributes:
        precision: "fp16", "bf16", "int8", "fp8".
        weights: :func:`weights_digest` of the master graph.
        placement: whose Q/DQ placement a quantised graph follows ("tensorrt", "onnxruntime").
        table: the digest of the calibration table.
        remainder: the precision of the layers that aren't quantised.
        kept: names of convolutions and matrix products left in a wider type on purpose.
    """

    precision: str
    weights: str
    placement: str | None = None
    table: str | None = None
    remainder: str | None = None
    kept: tuple[str, ...] = ()

    def dumps(self) -> str:
        """One line of JSON, without what isn't set."""
        return json.dumps({name: value for name, value in vars(self).items() if value}, sort_keys=True)

    @classmethod
    def loads(cls, text: str) -> "Derived":
        """Read what :meth:`dumps` wrote.

        Raises:
            GraphError: it isn't that.
        """
        try:
            value = json.loads(text)
            return cls(**{**value, "kept": tuple(map(str, value.get("kept", ())))})
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise GraphError(f"the graph's property {DERIVED_KEY} is damaged: {error}", "build it again") from error


def get_property(model: onnx.ModelProto, key: str) -> str | None:
    """The value of one of the graph's ``metadata_props``; None where it isn't set."""
    return next((item.value for item in model.metadata_props if item.key == key), None)


def set_property(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set one of the graph's ``metadata_props``."""
    for item in model.metadata_props:
        if item.key == key:
            item.value = value
            return
    model.metadata_props.add(key=key, value=value)


def read_metadata(model: onnx.ModelProto) -> ModelMetadata | None:
    """The toolkit's metadata in a graph; None in a foreign graph.

    Raises:
        InputError: it is damaged.
    """
    text = get_property(model, METADATA_KEY)
    return None if text is None else ModelMetadata.loads(text)


def require_metadata(metadata: ModelMetadata | None, path: object) -> ModelMetadata:
    """The metadata of a graph that must have it; ``path`` is what the error calls it.

    Raises:
        GraphError: there is none.
    """
    if metadata is None:
        raise GraphError(
            f"'{path}' doesn't say how its images are preprocessed",
            "export it with `toolkit export`, or import it with `toolkit import`: both store that",
        )
    return metadata


def write_metadata(model: onnx.ModelProto, metadata: ModelMetadata) -> None:
    """Put the toolkit's metadata into a graph."""
    set_property(model, METADATA_KEY, metadata.dumps())


def read_derived(model: onnx.ModelProto) -> Derived | None:
    """What a typed graph was made from; None in a master or foreign graph.

    Raises:
        GraphError: the property is damaged.
    """
    text = get_property(model, DERIVED_KEY)
    return None if text is None else Derived.loads(text)


def write_derived(model: onnx.ModelProto, derived: Derived) -> None:
    """Note in a graph what it was made from."""
    set_property(model, DERIVED_KEY, derived.dumps())


def read_verification(model: onnx.ModelProto) -> Mapping[str, Any] | None:
    """What was measured when the graph was verified; None where it wasn't."""
    text = get_property(model, VERIFICATION_KEY)
    try:
        value = None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise GraphError(f"the graph's property {VERIFICATION_KEY} is damaged: {error}", "verify it again") from error
    return value if isinstance(value, dict) else None
