"""What travels with a model from checkpoint to engine: architecture, labels, preprocessing, origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engines.errors import InputError
from engines.preprocess import Preprocess

METADATA_KEY = "toolkit.metadata"
"""The key in an ONNX graph's ``metadata_props`` that holds :meth:`ModelMetadata.dumps`."""


@dataclass(frozen=True)
class ModelMetadata:
    """The facts about a classifier that every artifact carries.

    Attributes:
        architecture: the registry's name ("alexnet-2012"), or what else is known of the network.
        labels: one name a class, in the order of the logits.
        preprocess: how images become its input.
        uint8_input: the graph itself casts, transposes and normalises raw NHWC uint8 images.
        origin: digests and facts of what it was made from ("weights", "checkpoint", "data", "accuracy", ...).
    """

    architecture: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    uint8_input: bool = False
    origin: Mapping[str, str] = field(default_factory=dict)

    def with_origin(self, **facts: str) -> "ModelMetadata":
        """A copy with more facts of origin."""
        return replace(self, origin={**self.origin, **facts})

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "labels": list(self.labels),
            "preprocess": self.preprocess.to_json(),
            "uint8_input": self.uint8_input,
            "origin": dict(self.origin),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelMetadata":
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: it isn't that.
        """
        try:
            return cls(
                architecture=str(value["architecture"]),
                labels=tuple(str(label) for label in value["labels"]),
                preprocess=Preprocess.from_json(value["preprocess"]),
                uint8_input=bool(value.get("uint8_input", False)),
                origin={str(k): str(v) for k, v in dict(value.get("origin", {})).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the model's metadata is damaged: {error}",
                "export the model again with this version of toolkit",
            ) from error

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> "ModelMetadata":
        """Read what :meth:`dumps` wrote.

        Raises:
            InputError: it isn't that.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"the model's metadata is not JSON: {error}", "export the model again") from error
        return cls.from_json(value)
