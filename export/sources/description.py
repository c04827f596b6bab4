"""What a user says of a network that says nothing of itself: its pictures, its classes, its tensors.

A checkpoint of the toolkit, or a graph that it wrote, carries its metadata. A bare state dict with
``--model``, a program, a TorchScript archive or an ONNX graph from elsewhere carries none, or a part: the
rest is a :class:`Description`, given as options, and :func:`metadata_of` makes :class:`ModelMetadata` of it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from engines.errors import InputError
from engines.files import unreadable
from engines.metadata import ModelMetadata, Scores
from engines.preprocess import Interpolation, Preprocess, Resize
from engines.tensors import TensorSpec

BATCH = "batch"
"""The name of the first dimension of every tensor."""

AskedScores = Literal["auto", "logits", "probabilities", "none"]

DTYPES = ("float32", "float16", "int64", "int32", "uint8", "int8", "bool")
"""Types of elements that an input may have."""

_INPUT = re.compile(r"(?P<name>[A-Za-z_][\w.\-]*)=(?P<shape>\d+(?:[x×,]\d+)*|scalar)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True)
class Description:
    """What is said of a network; None, or empty, is what isn't said.

    Attributes:
        input_size: height and width of its pictures in pixels, or one number for both.
        channels: 3 (RGB) or 1 (luminance).
        mean, std: one value a channel, or one for all, on pixels scaled to [0, 1].
        resize, crop_fraction, interpolation: as in :class:`engines.preprocess.Preprocess`.
        labels: the classes' names, in the order of the scores.
        scores: what the output says of the classes; "auto" finds out by running it.
        inputs: the network's inputs, batch first, where it takes tensors and no pictures.
        outputs: the names of its outputs that the graph has, in their order; empty keeps all of a network
            that takes tensors, and the scores alone of one that takes pictures.
    """

    input_size: int | tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: Resize | None = None
    crop_fraction: float | None = None
    interpolation: Interpolation | None = None
    labels: tuple[str, ...] | None = None
    scores: AskedScores = "auto"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
        if self.scores not in get_args(AskedScores):
            raise InputError(f"scores '{self.scores}' make no sense", f"say {', '.join(get_args(AskedScores))}")
        if self.inputs and (said := self.of_pictures()):
            raise InputError(
                f"{said[0]} says how pictures become the input, --input that the network takes tensors",
                "give one of the two",
            )
        names = [spec.name for spec in self.inputs]
        if len(set(names)) != len(names):
            raise InputError(f"two inputs are called alike: {', '.join(names)}", "give each a name of its own")

    @classmethod
    def of(cls, metadata: ModelMetadata) -> "Description":
        """What metadata says, as if a user had said it; of an ensemble what holds for its members."""
        spec = metadata.pictures
        shared: dict[str, Any] = {
            "labels": metadata.labels or None,
            "scores": "auto" if "members" in metadata.origin else metadata.scores,
            "outputs": tuple(output.name for output in metadata.outputs),
        }
        if spec is None:
            return cls(inputs=metadata.inputs, **shared)
        return cls(
            input_size=(spec.height, spec.width),
            channels=spec.channels,
            mean=spec.mean,
            std=spec.std,
            resize=spec.resize,
            crop_fraction=spec.crop_fraction,
            interpolation=spec.interpolation,
            **shared,
        )

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return any(getattr(self, entry.name) != entry.default for entry in fields(self))

    def said(self) -> list[str]:
        """The options that were given, as on the command line."""
        return [_option(entry.name) for entry in fields(self) if getattr(self, entry.name) != entry.default]

    def pictures(self, base: Preprocess) -> Preprocess:
        """``base`` with what is said of the pictures in place of its own.

        Raises:
            InputError: it makes no sense.
        """
        channels = base.channels if self.channels is None else self.channels
        if channels not in {1, 3}:
            raise InputError(f"{channels} channels; 1 and 3 are supported", "give --channels 1 or 3, or --input")
        size = self.input_size
        height, width = (base.height, base.width) if size is None else (size, size) if isinstance(size, int) else size
        said: dict[str, Any] = {
            name: value
            for name in ("resize", "crop_fraction", "interpolation")
            if (value := getattr(self, name)) is not None
        }
        return replace(
            base,
            height=height,
            width=width,
            channels=channels,
            mean=_a_channel(self.mean, base.mean, channels),
            std=_a_channel(self.std, base.std, channels),
            **said,
        )

    def of_pictures(self) -> list[str]:
        """Those of :meth:`said` that say how pictures become the input."""
        names = ("input_size", "channels", "mean", "std", "resize", "crop_fraction", "interpolation")
        return [_option(name) for name in names if getattr(self, name) is not None]


NOTHING = Description()
"""Nothing is said."""


def metadata_of(
    description: Description,
    architecture: str,
    *,
    classes: int,
    base: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    scores: Scores = "logits",
    outputs: Iterable[TensorSpec] = (),
) -> ModelMetadata:
    """The metadata of a network that has none, or a part.

    Args:
        description: what the user says; it is preferred to all else.
        architecture: what to call the network.
        classes: how many scores it gives; 0 for a network that isn't a classifier.
        base: how pictures become its input where ``description`` doesn't say; None is ImageNet's at 224×224.
        labels: the classes' names where they are known already.
        scores: what ``"auto"`` stands for.
        outputs: the network's outputs, where they aren't the scores alone.

    Raises:
        InputError: the labels aren't as many as the classes, or the pictures make no sense.
    """
    kind: Scores = scores if description.scores == "auto" else description.scores
    if kind == "none" and description.labels:
        raise InputError("--labels are given for a network with --scores none", "leave one of the two out")
    named = description.labels if description.labels is not None else labels
    if kind == "none":
        named = ()
    elif named is None:
        named = tuple(f"class {index}" for index in range(classes))
    elif len(named) != classes:
        raise InputError(f"{len(named)} labels for a network of {classes} classes", "give one label a class")
    pictures = None if description.inputs else description.pictures(base or Preprocess(224, 224))
    return ModelMetadata(
        architecture, tuple(named), pictures, scores=kind, inputs=description.inputs, outputs=tuple(outputs)
    )


def assumed(
    metadata: ModelMetadata, description: Description, *, labels: bool = False, pictures: bool = False
) -> tuple[str, ...]:
    """What of a network's metadata nobody said, so that defaults stand there: a line to tell, or none.

    Args:
        metadata: as :func:`metadata_of` made it.
        description: what the user said.
        labels: whether the classes' names are known otherwise.
        pictures: whether the preprocessing is.
    """
    unknown, taken, remedy = [], [], []
    if metadata.labels and description.labels is None and not labels:
        unknown.append("labels")
        last = f" to {metadata.labels[-1]}" if len(metadata.labels) > 1 else ""
        taken.append(f"{metadata.labels[0]}{last}")
        remedy.append("--labels")
    spec = metadata.pictures
    if spec is not None and description.mean is None and description.std is None and not pictures:
        unknown.append("preprocessing")
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
        size = f"{spec.height}×{spec.width}×{spec.channels}"
        taken.append(f"{size} {'stretched' if spec.resize == 'stretch' else 'cropped'}, mean {mean}, std {std}")
        remedy.append("--mean, --std and --resize")
    if not unknown:
        return ()
    verb = "aren't" if len(unknown) > 1 or unknown[0] == "labels" else "isn't"
    what = f"{' and '.join(unknown)} {verb} known: {' and '.join(taken)} are taken"
    return (f"{what}; `toolkit export` says otherwise by {' and '.join(remedy)}",)


def read_input(text: str) -> TensorSpec:
    """The input that ``NAME=SHAPE[:DTYPE]`` says, e.g. ``ids=128:int64`` or ``x=3x224x224``; the batch comes first.

    Raises:
        InputError: it doesn't say that.
    """
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"'{text}' doesn't describe an input", "write NAME=SHAPE[:DTYPE] without the batch, e.g. ids=128:int64"
        )
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise InputError(f"input '{match['name']}' has the unknown type '{dtype}'", f"use one of {', '.join(DTYPES)}")
    shape = () if match["shape"] == "scalar" else tuple(int(size) for size in re.split("[x×,]", match["shape"]))
    if 0 in shape:
        raise InputError(f"input '{match['name']}' has an empty dimension: {match['shape']}", "give sizes from 1")
    return TensorSpec(match["name"], dtype, (BATCH, *shape))


def read_labels(given: "str | PathLike[str] | Sequence[str]") -> tuple[str, ...]:
    """Names of classes: a list, ``a,b,c``, or a text file with one on each line.

    Raises:
        InputError: the file can't be read, or there is no name in it.
    """
    if not isinstance(given, str | PathLike):
        names = [str(name) for name in given]
    elif "," in str(given) and not Path(given).is_file():
        names = [name.strip() for name in str(given).split(",")]
    else:
        names = _lines(Path(given))
    if not names or not all(names):
        raise InputError(f"a name in the labels '{given}' is empty", "give one name a class")
    return tuple(names)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"the labels in '{path}' are not text in UTF-8", "write one name on each line") from error
    return [line.strip() for line in text.strip().splitlines()]


def _a_channel(said: tuple[float, ...] | None, base: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value a channel; a single one holds for all, and ImageNet's three become their mean for one channel."""
    if said is not None:
        return said * channels if len(said) == 1 else said
    if len(base) == channels:
        return base
    return (round(float(np.mean(base)), 4),) if channels == 1 else base * channels


def _option(name: str) -> str:
    return {"inputs": "--input"}.get(name, "--" + name.replace("_", "-"))


def description_of(value: "Description | Mapping[str, Any] | None") -> Description:
    """The description itself, or one of keyword arguments in a dictionary.

    Raises:
        InputError: a key isn't a field.
    """
    if value is None:
        return NOTHING
    if isinstance(value, Description):
        return value
    known = [entry.name for entry in fields(Description)]
    if unknown := sorted(set(value) - set(known)):
        raise InputError(f"a description has no '{unknown[0]}'", f"it has {', '.join(known)}")
    return Description(**value)
