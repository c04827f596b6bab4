"""What a foreign graph is: a classifier of pictures or a network of tensors; its labels, scores and preprocessing.

What the user says comes first, then what the graph says, then what is usual; each guess is a note.

1. A graph with one float input [batch, 1 or 3, height, width] takes pictures, unless inputs are described; uint8
   [batch, height, width, 1 or 3] does too, and then it normalises them itself.
2. It is a classifier where its one output (or the one called "logits" or "probabilities") is float [batch, classes]:
   of probabilities if a Softmax makes them, else of logits. A network of tensors is one only where that is said; so
   is one whose answers a Sigmoid makes: each of its classes is there or not, whatever the others are.
3. Labels are taken from the properties that exporters write ("names", "labels", "classes", "id2label").
4. Names of inputs and outputs stay. Where they aren't the usual ones, the metadata tells them.
"""

import ast
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engines.errors import GraphError, InputError
from engines.metadata import ModelMetadata, Scores
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.foreign.edit import Shape
from export.foreign.opset import has_softmax, maker
from export.foreign.tensors import Given, Takes
from export.onnxlib import onnx
from export.sources.description import Description, metadata_of
from export.structure import type_name

_LABELS = ("names", "labels", "classes", "class_names", "id2label", "label_names")
_GREY = {"mean": (0.449,), "std": (0.226,)}


def describe(
    model: onnx.ModelProto,
    takes: Takes,
    shapes: dict[str, Shape],
    description: Description,
    architecture: str,
    notes: list[str],
) -> ModelMetadata:
    """The metadata of a graph by the rules above.

    Args:
        model: the finished graph.
        takes: its inputs.
        shapes: of its tensors; the batch is None.
        description: what the user says.
        architecture: what to call the network.
        notes: gets a line for each guess.

    Raises:
        InputError: the description contradicts the graph.
    """
    given = _outputs(model, shapes)
    picture = _picture(takes, description)
    scored, scores = _scores(model, given, description, picture is not None, notes)
    classes = 0 if scored is None else int(scored.shape[1])
    if picture is None:
        said = [] if description.inputs else [option for option in description.said() if option in _OF_PICTURES]
        taken = tuple(item.spec for item in takes.inputs)
        if said:
            raise InputError(
                f"{said[0]} is about pictures, but the graph takes {'; '.join(map(str, taken))}",
                "leave it out; `toolkit inspect` shows what the graph takes",
            )
        asked = replace(description, inputs=taken)
        return metadata_of(
            asked, architecture, classes=classes, labels=_labels(model, classes), scores=scores, outputs=given
        )
    channels = picture.shape[2] if picture.dtype == "uint8" else picture.shape[0]
    base = _base(picture, int(channels))
    if description.mean is None and description.std is None and picture.dtype != "uint8":
        notes.append(
            f"pictures are normalised as ImageNet's are (mean {_shown(base.mean)}, std {_shown(base.std)}): the "
            "graph doesn't say; --mean and --std give others"
        )
    labels = _labels(model, classes)
    metadata = metadata_of(description, architecture, classes=classes, base=base, labels=labels, scores=scores)
    if labels is not None and description.labels is None and classes:
        notes.append("labels are those of the graph's properties")
    usual = "probabilities" if metadata.scores == "probabilities" else "logits"
    plain = len(given) == 1 and scored is not None and given[0].name == usual
    return replace(
        metadata,
        uint8_input=picture.dtype == "uint8",
        inputs=() if picture.name == "input" or picture.dtype == "uint8" else (picture.spec,),
        outputs=() if plain else given,
    )


_OF_PICTURES = ("--input-size", "--channels", "--mean", "--std", "--resize", "--crop-fraction", "--interpolation")


def _picture(takes: Takes, description: Description) -> Given | None:
    """The input that takes pictures, by rule 1."""
    item = takes.inputs[0]
    if description.inputs or len(takes.inputs) != 1 or len(item.shape) != 3:
        return None
    if item.dtype == "uint8":
        return item if item.shape[2] in {1, 3} else None
    if item.spec.dtype != "float32":
        return None
    if item.shape[0] in {1, 3}:
        return item
    if item.shape[2] in {1, 3}:
        raise GraphError(
            f"input {item.spec} looks like pictures with their channels last",
            "give --layout nhwc; or --input NAME=SIZES if it is no picture",
        )
    return None


def _base(picture: Given, channels: int) -> Preprocess:
    height, width = picture.shape[:2] if picture.dtype == "uint8" else picture.shape[1:]
    if channels == 1:
        return Preprocess(height, width, 1, mean=_GREY["mean"], std=_GREY["std"])
    return Preprocess(height, width)


def _outputs(model: onnx.ModelProto, shapes: dict[str, Shape]) -> tuple[TensorSpec, ...]:
    found = []
    for value in model.graph.output:
        shape = shapes.get(value.name, ())
        sizes = tuple("?" if size is None else size for size in shape[1:])
        found.append(TensorSpec(value.name, type_name(value.type.tensor_type.elem_type), ("batch", *sizes)))
    return tuple(found)


def scored_output(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The output that a classifier's scores would be in, by rule 2; one with two dimensions of one element too."""
    named = [spec for spec in outputs if spec.name in {"logits", "probabilities"}]
    found = named or list(outputs)
    fits = [
        spec
        for spec in found
        if spec.dtype == "float32"
        and len(spec.shape) >= 2
        and isinstance(spec.shape[1], int)
        and spec.shape[1] > 1
        and all(size == 1 for size in spec.shape[2:])
    ]
    return fits[0] if len(found) == 1 and len(fits) == 1 else None


def _scores(
    model: onnx.ModelProto,
    outputs: tuple[TensorSpec, ...],
    description: Description,
    pictures: bool,
    notes: list[str],
) -> tuple[TensorSpec | None, Scores]:
    found = scored_output(outputs)
    shown = "; ".join(map(str, outputs))
    if description.scores == "none":
        return None, "none"
    asked = description.scores != "auto" or description.labels is not None
    if found is None:
        if asked:
            raise InputError(
                f"none of the outputs can be a classifier's scores for sure: {shown}",
                "choose the output [batch, classes] with --outputs NAME, or leave --scores and --labels out",
            )
        if pictures:
            notes.append(f"no classifier: it gives {shown}")
        return None, "none"
    if not pictures and not asked:
        notes.append("taken as no classifier; --scores logits or probabilities says that it is one")
        return None, "none"
    if not asked and maker(model.graph, found.name) == "Sigmoid":
        notes.append(
            f"'{found.name}' is made by a Sigmoid, each class by itself: taken as no classifier; "
            "--scores logits says that the largest is the answer"
        )
        return None, "none"
    softmax = has_softmax(model.graph, found.name)
    if description.scores == "auto":
        if softmax:
            notes.append(f"'{found.name}' holds probabilities: a Softmax makes them")
        return found, "probabilities" if softmax else "logits"
    if description.scores == "logits" and softmax:
        raise InputError(
            f"'{found.name}' is the result of a Softmax, and holds probabilities", "give --scores probabilities"
        )
    return found, description.scores


def _labels(model: onnx.ModelProto, classes: int) -> tuple[str, ...] | None:
    """Names of classes in the graph's properties, where they are as many as the classes."""
    if not classes:
        return None
    for item in model.metadata_props:
        if item.key.lower() not in _LABELS:
            continue
        names = _names(item.value)
        if names is not None and len(names) == classes:
            return names
    return None


def _names(text: str) -> tuple[str, ...] | None:
    """A list or a table by index, as JSON or as Python writes it; or names with commas or on lines."""
    value: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if isinstance(value, dict):
        try:
            table = {int(key): str(name) for key, name in value.items()}
        except ValueError:
            return None
        return tuple(table[index] for index in range(len(table))) if set(table) == set(range(len(table))) else None
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    parts = text.splitlines() if "\n" in text.strip() else text.split(",")
    return tuple(part.strip() for part in parts) if value is None else None


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
