"""Images in, labels out: a session with the model's own preprocessing around it."""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from threading import Lock
from types import TracebackType
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError
from engines.metadata import ModelMetadata
from engines.preprocess import ImageLike, Preprocess
from engines.sessions.base import Session
from engines.tensors import Array
from toolkit.runtime.decode import in_threads
from toolkit.runtime.head import Head, check_top
from toolkit.runtime.overlap import overlapped
from toolkit.runtime.prediction import Candidate, Prediction

__all__ = ["Candidate", "Prediction", "Predictor"]

DEFAULT_BATCH = 32
"""The batch for an engine that takes any."""

HOST_DECODERS = 4
"""Threads that decode for an engine on the CPU, which needs the cores itself."""

DEVICE_DECODERS = 16
"""Threads that decode for an engine on a device. More than that wait for the interpreter's lock, not for cores."""


@dataclass(frozen=True)
class _Batch:
    """Pictures that run together.

    Attributes:
        errors: for each picture what is wrong with it, or None.
        feed: the good ones as the engine takes them, or None where there is none.
    """

    errors: list[DataError | None]
    feed: Array | None


class Predictor:
    """Classifies images through one session; like its session it is owned by one thread at a time.

    Args:
        session: an engine with one input of images and one output of logits.
        metadata: overrides what travelled with the engine.
        preprocess: overrides the metadata's preprocessing; needed where there is none.
        labels: overrides the metadata's labels; without any the classes are called by their index.
        batch_size: images a run; None takes the engine's largest, or 32 where nothing bounds it.
        threads: how many images are decoded at once; None takes up to 4 for an engine on the CPU, up to 16 for one
            on a device.

    Attributes:
        session: the engine.
        head: how pictures become its input and its outputs become predictions; usable from any thread.
        batch_size: images a run.

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
        self.session = session
        self.head = Head.of(session.inputs, session.outputs, metadata or session.metadata, preprocess, labels)
        fixed = self.head.input.shape[0]
        self._fixed = fixed if isinstance(fixed, int) else None
        largest = self._fixed or session.info.max_batch
        self.batch_size = self._fixed or min(batch_size or largest or DEFAULT_BATCH, largest or 1 << 30)
        if (
            self.batch_size < 1
            or (batch_size is not None and batch_size < 1)
            or (threads is not None and threads < 1)
        ):
            raise InputError(f"batch size {batch_size} with {threads} threads", "both must be 1 or more")
        decoders = HOST_DECODERS if session.info.device == "cpu" else DEVICE_DECODERS
        self._threads = threads or min(decoders, os.cpu_count() or 1)
        # Who classifies one more picture in the midst of answers() takes turns with the thread that runs these.
        self._turn = Lock()

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes the engine's input."""
        return self.head.preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names in the order of the logits; empty where they are called by their index."""
        return self.head.labels

    def prepare(self, image: ImageLike) -> Array:
        """Make one picture what the engine takes: for an application that runs the session itself, or a batcher.

        It may be called in any thread, and in many.

        Args:
            image: a path, encoded bytes, a PIL image, or a uint8 array (RGB [H, W, 3], grey [H, W]).

        Returns:
            One sample without the batch axis: uint8 [height, width, channels], or float32 or float16
            [channels, height, width].

        Raises:
            DataError: the picture is damaged, too large or of an unusable type.
            MissingLibraryError: Pillow is not installed.
        """
        return self.head.sample(self.head.pixels(image))

    def read(self, outputs: Mapping[str, Array], top: int = 5) -> list[Prediction]:
        """What pictures show, from the engine's outputs; see :meth:`toolkit.runtime.head.Head.predictions`."""
        return self.head.predictions(outputs, top)

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
        with closing(self.answers(_as_many(images), top)) as answers:
            for answer in answers:
                if isinstance(answer, DataError):
                    raise answer
                predictions.append(answer)
        return predictions

    def answers(self, images: Iterable[ImageLike], top: int = 5) -> Generator[Prediction | DataError, None, None]:
        """:meth:`classify` for any number of images in bounded memory.

        Images are decoded in threads and the engine runs in one of its own, so that it always has its next batch;
        images are taken up to four batches ahead of the answers. A damaged picture's answer is the
        :class:`DataError` that names it; the others go on.
        """
        check_top(top)
        return self._answers(images, top)

    def classify_pixels(self, pixels: NDArray[np.uint8], top: int = 5) -> list[Prediction]:
        """Classify images that have the model's size already; Pillow is not needed.

        Args:
            pixels: uint8 [N, height, width, channels].
            top: how many classes each answer holds.

        Returns:
            One prediction an image.

        Raises:
            InputError: the pixels are of another type or shape, or ``top`` is not positive.
            RunError: the engine failed, or its logits are not finite.
        """
        check_top(top)
        return self.head.likeliest(self.logits(pixels), top)

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
        self.head.check(pixels)
        size = self.batch_size
        parts = [
            self.head.logits(self._run(self.head.feed(pixels[at : at + size]))) for at in range(0, len(pixels), size)
        ]
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

    def _answers(self, images: Iterable[ImageLike], top: int) -> Generator[Prediction | DataError, None, None]:
        ahead = self.batch_size + 2 * self._threads
        with closing(in_threads(self.prepare, images, threads=self._threads, ahead=ahead)) as prepared:
            batches = self._batches(prepared)
            first = next(batches, None)
            if first is None or len(first.errors) < self.batch_size:
                # There is nothing to prepare while this runs.
                if first is not None:
                    yield from self._read(first, self._answer(first), top)
                return
            with closing(overlapped(self._answer, chain((first,), batches))) as answered:
                for batch, outputs in answered:
                    yield from self._read(batch, outputs, top)

    def _batches(self, prepared: Iterator[Array | DataError]) -> Iterator[_Batch]:
        while items := list(islice(prepared, self.batch_size)):
            good = [item for item in items if not isinstance(item, DataError)]
            errors = [item if isinstance(item, DataError) else None for item in items]
            yield _Batch(errors, np.stack(good) if good else None)

    def _answer(self, batch: _Batch) -> dict[str, Array]:
        return {} if batch.feed is None else self._run(batch.feed)

    def _read(self, batch: _Batch, outputs: Mapping[str, Array], top: int) -> Iterator[Prediction | DataError]:
        predictions = iter(() if batch.feed is None else self.read(outputs, top))
        for error in batch.errors:
            yield error or next(predictions)

    def _run(self, feed: Array) -> dict[str, Array]:
        """The logits for a batch, by the output's name; one smaller than the engine's is filled up with zeros."""
        count = len(feed)
        if self._fixed and count < self._fixed:
            feed = np.concatenate([feed, np.zeros((self._fixed - count, *feed.shape[1:]), feed.dtype)])
        with self._turn:
            outputs = self.session.run({self.head.input.name: feed})
        return {self.head.output: outputs[self.head.output][:count]}


def _as_many(images: "ImageLike | Iterable[ImageLike]") -> Iterable[ImageLike]:
    single = isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable)
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [cast("ImageLike", images)]
    return cast("Iterable[ImageLike]", images)
