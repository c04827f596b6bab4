"""What travels with a model from checkpoint to engine: architecture, labels, preprocessing, tensors, origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from engines.errors import InputError
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec

Scores = Literal["logits", "probabilities", "none"]

METADATA_KEY = "toolkit.metadata"
"""The key in an ONNX graph's ``metadata_props`` that holds :meth:`ModelMetadata.dumps`."""


@dataclass(frozen=True)
class ModelMetadata:
    """The facts about a network that every artifact carries.

    Attributes:
        architecture: the registry's name ("alexnet-2012"), or what else is known of the network.
        labels: one name a class, in the order of the scores; empty for a network that isn't a classifier.
        pictures: how pictures become its input; None for a network that takes tensors. See :attr:`preprocess`.
        uint8_input: the graph itself casts, transposes and normalises raw NHWC uint8 images.
        origin: digests and facts of what it was made from ("weights", "checkpoint", "data", "accuracy", ...).
        scores: what the answer says of the classes: "logits", "probabilities" (softmax has been taken), or "none"
            for a network that isn't a classifier: what is compared then is its outputs themselves.
        inputs: the network's own inputs, batch first, the batch called "batch"; empty where the one input is
            ``input``, the pictures.
        outputs: its own outputs, likewise; empty where the one output is ``logits`` (or ``probabilities``),
            [batch, classes].
    """

    architecture: str
    labels: tuple[str, ...]
    pictures: Preprocess | None
    uint8_input: bool = False
    origin: Mapping[str, str] = field(default_factory=dict)
    scores: Scores = "logits"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become the network's input.

        Raises:
            InputError: it takes no pictures.
        """
        if self.pictures is None:
            taken = "; ".join(map(str, self.inputs)) or "tensors"
            raise InputError(
                f"{self.architecture} takes {taken}, and no pictures", "give its inputs as the arrays of an .npz"
            )
        return self.pictures

    @property
    def preprocess_digest(self) -> str | None:
        """The digest of the preprocessing; None for a network that takes no pictures."""
        return None if self.pictures is None else self.pictures.digest()

    @property
    def taken(self) -> tuple[TensorSpec, ...]:
        """What the network itself takes, in its order; pictures as it sees them: normalised, channels first.

        Raises:
            InputError: neither inputs nor pictures are known.
        """
        if self.inputs:
            return self.inputs
        spec = self.preprocess
        return (TensorSpec("input", "float32", ("batch", spec.channels, spec.height, spec.width)),)

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """What the network gives, in its order."""
        if self.outputs:
            return self.outputs
        name = "probabilities" if self.scores == "probabilities" else "logits"
        return (TensorSpec(name, "float32", ("batch", len(self.labels))),)

    @property
    def scored(self) -> str | None:
        """The output that holds the classes' scores; None for a network that isn't a classifier.

        Among several it is the one called "logits" or "probabilities", else the first of [batch, classes].
        """
        if self.scores == "none":
            return None
        fits = [spec.name for spec in self.given if len(spec.shape) == 2 and spec.dtype.startswith(("float", "bf"))]
        named = [name for name in fits if name in {"logits", "probabilities"}]
        wide = [spec.name for spec in self.given if spec.name in fits and spec.shape[1] == len(self.labels)]
        return next(iter([*named, *wide]), None)

    def with_origin(self, **facts: str) -> "ModelMetadata":
        """A copy with more facts of origin."""
        return replace(self, origin={**self.origin, **facts})

    def to_json(self) -> dict[str, Any]:
        """Plain values; what an ordinary classifier of pictures doesn't need is left out."""
        value: dict[str, Any] = {
            "architecture": self.architecture,
            "labels": list(self.labels),
            "preprocess": None if self.pictures is None else self.pictures.to_json(),
            "uint8_input": self.uint8_input,
            "origin": dict(self.origin),
        }
        if self.scores != "logits":
            value["scores"] = self.scores
        for name, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            if specs:
                value[name] = [spec.to_json() for spec in specs]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelMetadata":
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: it isn't that.
        """
        try:
            pictures = value["preprocess"]
            scores = value.get("scores", "logits")
            if scores not in get_args(Scores):
                raise ValueError(f"scores '{scores}'")
            return cls(
                architecture=str(value["architecture"]),
                labels=tuple(str(label) for label in value["labels"]),
                pictures=None if pictures is None else Preprocess.from_json(pictures),
                uint8_input=bool(value.get("uint8_input", False)),
                origin={str(k): str(v) for k, v in dict(value.get("origin", {})).items()},
                scores=scores,
                inputs=tuple(TensorSpec.from_json(spec) for spec in value.get("inputs", ())),
                outputs=tuple(TensorSpec.from_json(spec) for spec in value.get("outputs", ())),
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
