"""What a classifier makes of pictures and of an engine's answers, without the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError, RunError
from engines.metadata import ModelMetadata, Scores
from engines.preprocess import ImageLike, Preprocess
from engines.tensors import Array, TensorSpec
from toolkit.runtime.prediction import Prediction, likeliest


@dataclass(frozen=True)
class Head:
    """The classifier around an engine with one input of images and one output of logits; usable from any thread.

    Attributes:
        preprocess: how a picture becomes the engine's input.
        labels: the classes' names in the order of the logits; empty where they are called by their index.
        input: the engine's input.
        output: the name of the output that holds the logits.
        rank: how many dimensions that output has, the batch included.
        scores: whether those are logits, or probabilities already.
    """

    preprocess: Preprocess
    labels: tuple[str, ...]
    input: TensorSpec
    output: str
    rank: int
    scores: Scores = "logits"

    @classmethod
    def of(
        cls,
        session_inputs: Sequence[TensorSpec],
        session_outputs: Sequence[TensorSpec],
        metadata: ModelMetadata | None,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
    ) -> Self:
        """The head that fits an engine.

        Args:
            session_inputs, session_outputs: the engine's.
            metadata: what travelled with it.
            preprocess: overrides the metadata's preprocessing; needed where there is none.
            labels: overrides the metadata's labels.

        Raises:
            InputError: there is no preprocessing, it doesn't fit the input, or the engine is no classifier.
        """
        if metadata is not None and metadata.scores == "none":
            raise InputError(
                f"{metadata.architecture} is no classifier: it gives {'; '.join(map(str, session_outputs))}",
                "`toolkit serve` answers with its tensors, `toolkit compare` judges them",
            )
        if preprocess is None:
            if metadata is None:
                raise InputError(
                    "the engine carries no metadata, so how images become its input is unknown",
                    "put its passport beside it, build it from a graph of `toolkit export`, or give toolkit.load() "
                    "preprocess=Preprocess(...) and labels=[...]",
                )
            preprocess = metadata.preprocess
        if labels is None:
            labels = metadata.labels if metadata else ()
        image = _image_input(session_inputs, preprocess)
        logits = _logits_output(session_outputs)
        classes = logits.shape[1]
        if labels and isinstance(classes, int) and classes != len(labels):
            raise InputError(
                f"the engine has {classes} classes but there are {len(labels)} labels", "give one label a class"
            )
        scores = metadata.scores if metadata else "logits"
        return cls(preprocess, tuple(labels), image, logits.name, len(logits.shape), scores)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Decode and resize one picture; see :meth:`engines.preprocess.Preprocess.pixels`.

        Returns:
            uint8 [height, width, channels].

        Raises:
            DataError: the picture is damaged, too large or of an unusable type.
            MissingLibraryError: Pillow is not installed.
        """
        return self.preprocess.pixels(image)

    def check(self, pixels: NDArray[np.uint8]) -> None:
        """Raise InputError unless pixels are uint8 [N, height, width, channels] of the model's size."""
        spec = self.preprocess
        shape = (spec.height, spec.width, spec.channels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
            raise InputError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}", f"give uint8 [N, {', '.join(map(str, shape))}]"
            )

    def sample(self, pixels: NDArray[np.uint8]) -> Array:
        """One picture as the engine takes it, without the batch axis.

        Args:
            pixels: uint8 [height, width, channels] of the model's size.

        Returns:
            The same array for an engine that takes pixels; else float32 or float16 [channels, height, width].

        Raises:
            InputError: the pixels are of another type or shape.
        """
        sample: Array = self.feed(pixels[None])[0]
        return sample

    def feed(self, pixels: NDArray[np.uint8]) -> Array:
        """A batch of pictures as the engine takes it.

        Args:
            pixels: uint8 [N, height, width, channels] of the model's size.

        Returns:
            The same array for an engine that takes pixels; else float32 or float16 [N, channels, height, width].

        Raises:
            InputError: the pixels are of another type or shape.
        """
        self.check(pixels)
        if self.input.dtype == "uint8":
            return pixels
        return self.preprocess.normalise(pixels).astype(self.input.dtype, copy=False)

    def logits(self, outputs: Mapping[str, Array]) -> NDArray[np.float64]:
        """The logits among an engine's outputs, or the probabilities where it gives those.

        Args:
            outputs: of a batch, or of one sample without its batch axis.

        Returns:
            float64 [N, classes]; of one sample [1, classes].

        Raises:
            RunError: they are not finite, or not one a label.
        """
        logits = np.asarray(outputs[self.output], np.float64)
        logits = logits.reshape(len(logits) if logits.ndim == self.rank else 1, -1)
        if self.labels and logits.shape[1] != len(self.labels):
            raise RunError(
                f"the engine answers {logits.shape[1]} logits for {len(self.labels)} labels", "give one label a class"
            )
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise RunError(
                f"the engine's logits are not finite (first in image {int(np.argmin(finite))} of a batch of "
                f"{len(logits)})",
                "its precision may overflow: try bf16 or fp32, and `toolkit verify`",
            )
        return logits

    def predictions(self, outputs: Mapping[str, Array], top: int = 5) -> list[Prediction]:
        """What the pictures show, from an engine's outputs.

        Args:
            outputs: of a batch, or of one sample without its batch axis.
            top: how many classes each answer holds; all of them where there are fewer.

        Returns:
            One prediction a sample.

        Raises:
            InputError: ``top`` is not positive.
            RunError: the logits are not finite, or not one a label.
        """
        check_top(top)
        return self.likeliest(self.logits(outputs), top)

    def likeliest(self, scores: NDArray[np.float64], top: int) -> list[Prediction]:
        """What :meth:`logits` say: the ``top`` likeliest classes of each row."""
        return likeliest(scores, self.labels, top, probabilities=self.scores == "probabilities")


def check_top(top: int) -> None:
    """Raise InputError unless ``top`` is positive."""
    if top < 1:
        raise InputError(f"top {top}", "ask for 1 or more classes")


def _image_input(inputs: Sequence[TensorSpec], preprocess: Preprocess) -> TensorSpec:
    """The one input, checked against the preprocessing."""
    if len(inputs) != 1:
        raise InputError(
            f"the engine has {len(inputs)} inputs ({'; '.join(map(str, inputs))})", "a classifier has one: the images"
        )
    spec = inputs[0]
    height, width, channels = preprocess.height, preprocess.width, preprocess.channels
    sizes = {
        "uint8": (height, width, channels),
        "float32": (channels, height, width),
        "float16": (channels, height, width),
    }.get(spec.dtype)
    if sizes is None:
        raise InputError(f"the engine's input is {spec}", "float32, float16 and uint8 inputs are supported")
    fits = len(spec.shape) == 4 and all(
        isinstance(have, str) or have == want for have, want in zip(spec.shape[1:], sizes, strict=True)
    )
    if not fits:
        raise InputError(
            f"the engine's input is {spec}, but its preprocessing makes [batch, {', '.join(map(str, sizes))}]",
            "give the preprocessing of this engine",
        )
    return spec


def _logits_output(outputs: Sequence[TensorSpec]) -> TensorSpec:
    """The output that holds the logits."""
    found = [spec for spec in outputs if spec.name == "logits"] or [s for s in outputs if len(s.shape) >= 2]
    if len(found) != 1:
        raise InputError(
            f"which output holds the logits is unclear: {'; '.join(map(str, outputs)) or 'there is none'}",
            "give an engine with one output [batch, classes]",
        )
    rest = found[0].shape[1:]
    if not rest or any(size != 1 for size in rest[1:]):
        raise InputError(f"the engine's output is {found[0]}", "a classifier answers [batch, classes]")
    return found[0]
