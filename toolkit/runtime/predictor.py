"""Images in, labels out: a session with the model's own preprocessing around it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError, RunError
from engines.metadata import ModelMetadata
from engines.preprocess import ImageLike, Preprocess
from engines.sessions.base import Session
from engines.tensors import TensorSpec
from toolkit.runtime.decode import decode

DEFAULT_BATCH = 32
"""The batch for an engine that takes any."""


@dataclass(frozen=True)
class Candidate:
    """One class that a picture may show.

    Attributes:
        label: the class's name.
        index: its place among the logits.
        probability: from 0 to 1, the softmax over all classes.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a picture shows.

    Attributes:
        top: the likeliest classes, the likeliest first; equal ones in the order of their index.
    """

    top: tuple[Candidate, ...]

    @property
    def label(self) -> str:
        """The likeliest class's name."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """The likeliest class's place among the logits."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """The likeliest class's probability, from 0 to 1."""
        return self.top[0].probability

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "top": [asdict(candidate) for candidate in self.top]}


class Predictor:
    """Classifies images through one session; like its session it is owned by one thread at a time.

    Args:
        session: an engine with one input of images and one output of logits.
        metadata: overrides what travelled with the engine.
        preprocess: overrides the metadata's preprocessing; needed where there is none.
        labels: overrides the metadata's labels; without any the classes are called by their index.
        batch_size: images a run; None takes the engine's largest, or 32 where nothing bounds it.
        threads: how many images are decoded at once; None takes up to four.

    Raises:
        InputError: there is no preprocessing, or it doesn't fit the engine's input.
    """

    def __init__(
        self,
        session: Session,
        metadata: ModelMetadata | None = None,
        *,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        metadata = metadata or session.metadata
        if preprocess is None and metadata is None:
            raise InputError(
                "the engine carries no metadata, so how images become its input is unknown",
                "put its passport beside it, build it from a graph of `toolkit export`, or give toolkit.load() "
                "preprocess=Preprocess(...) and labels=[...]",
            )
        self.session = session
        self.preprocess = preprocess or cast("ModelMetadata", metadata).preprocess
        self._input = _image_input(session.inputs, self.preprocess)
        self._output, classes = _logits_output(session.outputs)
        self.labels = tuple(labels if labels is not None else metadata.labels if metadata else ())
        if self.labels and classes is not None and classes != len(self.labels):
            raise InputError(
                f"the engine has {classes} classes but there are {len(self.labels)} labels", "give one label a class"
            )
        fixed = self._input.shape[0]
        self._fixed = fixed if isinstance(fixed, int) else None
        largest = self._fixed or session.info.max_batch
        self.batch_size = self._fixed or min(batch_size or largest or DEFAULT_BATCH, largest or 1 << 30)
        if self.batch_size < 1 or (threads is not None and threads < 1):
            raise InputError(f"batch size {batch_size} with {threads} threads", "both must be 1 or more")
        self._threads = threads or min(4, os.cpu_count() or 1)

    def classify(self, images: "ImageLike | Iterable[ImageLike]", top: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: paths, encoded bytes, PIL images or uint8 arrays (RGB [H, W, 3], grey [H, W]); one of
                them, or any number.
            top: how many classes each answer holds; all of them where there are fewer.

        Returns:
            One prediction an image, in order; for a single image a list of one.

        Raises:
            DataError: a picture is damaged; the message names it.
            InputError: ``top`` is not positive.
            RunError: the engine failed, or its logits are not finite.
        """
        predictions = []
        for answer in self.answers(_as_many(images), top):
            if isinstance(answer, DataError):
                raise answer
            predictions.append(answer)
        return predictions

    def answers(self, images: Iterable[ImageLike], top: int = 5) -> Iterator[Prediction | DataError]:
        """:meth:`classify` for any number of images in bounded memory.

        A damaged picture's answer is the :class:`DataError` that names it; the others go on.
        """
        if top < 1:
            raise InputError(f"top {top}", "ask for 1 or more classes")
        return self._answers(images, top)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The raw answers to images that have the model's size already; Pillow is not needed.

        Args:
            pixels: uint8 [N, height, width, channels].

        Returns:
            float64 [N, classes].

        Raises:
            InputError: the pixels are of another type or shape.
            RunError: the engine failed, or its logits are not finite.
        """
        spec = self.preprocess
        shape = (spec.height, spec.width, spec.channels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
            raise InputError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}", f"give uint8 [N, {', '.join(map(str, shape))}]"
            )
        parts = [self._run(pixels[at : at + self.batch_size]) for at in range(0, len(pixels), self.batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)))

    def close(self) -> None:
        """Close the session; safe to call twice."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self, images: Iterable[ImageLike], top: int) -> Iterator[Prediction | DataError]:
        decoded = decode(images, self.preprocess, threads=self._threads, ahead=2 * self.batch_size)
        with closing(decoded):
            while batch := list(islice(decoded, self.batch_size)):
                good = [pixels for pixels in batch if not isinstance(pixels, DataError)]
                predictions = iter(self._predict(np.stack(good), top) if good else ())
                for item in batch:
                    yield item if isinstance(item, DataError) else next(predictions)

    def _predict(self, pixels: NDArray[np.uint8], top: int) -> list[Prediction]:
        logits = self._run(pixels)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        probabilities = softmax(logits)
        return [
            Prediction(tuple(Candidate(self._label(i), int(i), float(row[i])) for i in ranked))
            for ranked, row in zip(order, probabilities, strict=True)
        ]

    def _label(self, index: int) -> str:
        return self.labels[index] if self.labels else str(index)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        count = len(pixels)
        if self._fixed and count < self._fixed:
            pixels = np.concatenate([pixels, np.zeros((self._fixed - count, *pixels.shape[1:]), np.uint8)])
        spec = self._input
        feed: NDArray[Any] = pixels if spec.dtype == "uint8" else self.preprocess.normalise(pixels)
        if spec.dtype == "float16":
            feed = feed.astype(np.float16)
        logits = np.asarray(self.session.run({spec.name: feed})[self._output], np.float64)
        logits = logits.reshape(len(logits), -1)[:count]
        if self.labels and logits.shape[1] != len(self.labels):
            raise RunError(
                f"the engine answers {logits.shape[1]} logits for {len(self.labels)} labels", "give one label a class"
            )
        if not np.isfinite(logits).all():
            bad = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise RunError(
                f"the engine's logits are not finite (first in image {bad} of a batch of {count})",
                "its precision may overflow: try bf16 or fp32, and `toolkit verify`",
            )
        return logits


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from logits [N, classes], float64; the largest logit is subtracted first, so none overflows."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _as_many(images: "ImageLike | Iterable[ImageLike]") -> Iterable[ImageLike]:
    single = isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable)
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [cast("ImageLike", images)]
    return cast("Iterable[ImageLike]", images)


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


def _logits_output(outputs: Sequence[TensorSpec]) -> tuple[str, int | None]:
    """The name of the output that holds the logits, and the number of classes where it is fixed."""
    found = [spec for spec in outputs if spec.name == "logits"] or [s for s in outputs if len(s.shape) >= 2]
    if len(found) != 1:
        raise InputError(
            f"which output holds the logits is unclear: {'; '.join(map(str, outputs)) or 'there is none'}",
            "give an engine with one output [batch, classes]",
        )
    rest = found[0].shape[1:]
    if not rest or any(size != 1 for size in rest[1:]):
        raise InputError(f"the engine's output is {found[0]}", "a classifier answers [batch, classes]")
    return found[0].name, rest[0] if isinstance(rest[0], int) else None
