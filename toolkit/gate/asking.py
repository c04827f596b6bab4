"""Old and new answer the same pictures, batch by batch, in fixed memory."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, InputError, RunError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.progress import Progress
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.comparison.accuracy.answers import Answers, Labels, class_map
from toolkit.comparison.accuracy.tally import Tally
from toolkit.comparison.records.record import DataFacts
from toolkit.data import Dataset, align_labels, choose, pixel_batches
from toolkit.gate.distance import FLOOR_IMAGES, Distance, Shift, disturbed

BATCH = 32
"""Pictures that are decoded and sent at once; a session that takes fewer gets them in parts."""

Logits = NDArray[np.float32]


def require_judged(name: str, metadata: ModelMetadata) -> ModelMetadata:
    """The metadata of a classifier of pictures: what the gates are about.

    Raises:
        UnsupportedError: it takes tensors, or is no classifier.
    """
    if metadata.pictures is not None and metadata.scores != "none":
        return metadata
    what = "is no classifier" if metadata.scores == "none" else f"takes {'; '.join(map(str, metadata.taken))}"
    raise UnsupportedError(
        f"diff judges classifiers of pictures, and '{name}' {what}",
        "`toolkit compare OLD NEW --data DATA` holds the outputs of such networks against each other",
    )


class Old(Protocol):
    """Where the old one's answers come from: a process, or a file that kept them.

    Attributes:
        name: what it is called.
        metadata: its labels and preprocessing.
    """

    name: str
    metadata: ModelMetadata

    def answers(self, pixels: NDArray[np.uint8], digest: str) -> Logits:
        """float32 [N, classes] for the next pictures uint8 [N, H, W, C].

        ``digest`` is of all pictures and labels so far, these included.

        Raises:
            ToolkitError: it can't answer, or the pictures aren't those that it has answered.
        """

    def floor(self, pixels: NDArray[np.uint8], answers: Logits, seed: tuple[int, ...]) -> None:
        """Ask the same pictures once more, disturbed, and add what that changed to the floor."""

    def measured(self) -> Distance:
        """The floor."""


class Running:
    """An artifact in a process of its own.

    Args:
        name: what it is called.
        metadata: its labels and preprocessing.
        worker: has it open.
    """

    def __init__(self, name: str, metadata: ModelMetadata, worker: WorkerProcess) -> None:
        self.name, self.metadata, self._worker = name, metadata, worker
        self._floor = Distance()

    def answers(self, pixels: NDArray[np.uint8], digest: str = "") -> Logits:
        spec = self.metadata
        logits = self._worker.logits(pixels, None if spec.uint8_input else spec.preprocess)
        if logits.shape[1] != len(spec.labels):
            raise InputError(
                f"'{self.name}' gives {logits.shape[1]} logits for {len(spec.labels)} labels",
                "export it again with its own labels",
            )
        return logits

    def floor(self, pixels: NDArray[np.uint8], answers: Logits, seed: tuple[int, ...]) -> None:
        self._floor.add(answers, self.answers(disturbed(pixels, seed)))

    def measured(self) -> Distance:
        return self._floor


@dataclass(frozen=True)
class Answered:
    """What both answered.

    Attributes:
        data: on what; None when the new one did not even open.
        old: the old one's accuracy; None when the new one failed before the first batch was done.
        new: the new one's, with what it does against the old one; None without a new one, or when it failed.
        distance: between their logits; None where they can't be held against each other.
        floor: the old one's response to the disturbance.
        shift: the systematic part of the distance; None like it.
        broken: pictures that got NaN or infinity from the new one and numbers from the old one.
        failure: why the new one stopped answering.
    """

    data: DataFacts | None
    old: Accuracy | None
    new: Accuracy | None
    distance: Distance | None
    floor: Distance
    shift: Shift | None = None
    broken: int = 0
    failure: RunError | None = None


def ask(
    dataset: Dataset,
    old: Old,
    new: Running | None,
    *,
    images: int | None,
    seed: int,
    with_floor: bool,
    keep: Callable[[Logits, str], None] = lambda logits, digest: None,
    progress: Progress,
) -> Answered:
    """Put the test pictures to both.

    Args:
        dataset: its test split is asked.
        old: answers each batch first.
        new: then this one; None asks the old one alone.
        images: how many, in the classes' proportions; None takes all.
        seed: of the choice of pictures and of the disturbance.
        with_floor: ask the old one the first :data:`FLOOR_IMAGES` once more, disturbed.
        keep: told the old one's logits of each batch and the digest of the pictures and labels up to its end.
        progress: told of the work.

    Raises:
        DataError: the pictures can't be decoded, or the model doesn't know their classes.
        ToolkitError: the old one can't answer. A new one that fails is a finding, not an error.
    """
    indices = choose(dataset.test, images or len(dataset.test), seed)
    truth = align_labels(dataset, old.metadata.labels).test.labels[indices]
    old_tally = Tally(old.metadata.labels)
    newcomer = None if new is None else _Newcomer(new, old.metadata, dataset, indices)
    specs = [old.metadata.preprocess, *([new.metadata.preprocess] if new else [])]
    digest, start, failure = hashlib.sha256(), 0, None
    progress.begin("Evaluating", len(indices), "images")
    with closing(_pixels(dataset, indices, specs)) as batches:
        for pixels, labels in batches:
            part = slice(start, start + len(labels))
            digest.update(pixels[0].tobytes())
            digest.update(labels.tobytes())
            so_far = f"sha256:{digest.hexdigest()}"
            logits = old.answers(pixels[0], so_far)
            keep(logits, so_far)
            numbers = [int(number) for number in indices[part]]
            answers = old_tally.read(logits, truth[part])
            old_tally.add(answers, numbers)
            if with_floor and start < FLOOR_IMAGES:
                old.floor(pixels[0], logits, (seed, start))
            if newcomer is not None:
                try:
                    newcomer.add(pixels[-1], part, numbers, logits, answers)
                except RunError as error:
                    failure = error
                    break
            start += len(labels)
            progress.advance(len(labels))
    progress.end()
    facts = DataFacts(dataset.name, "test", len(indices), seed, f"sha256:{digest.hexdigest()}")
    done = newcomer is not None and failure is None
    return Answered(
        data=facts,
        old=old_tally.result(),
        new=newcomer.tally.result() if newcomer and done else None,
        distance=newcomer.distance if newcomer and done and newcomer.comparable else None,
        floor=old.measured(),
        shift=newcomer.shift if newcomer and done and newcomer.comparable else None,
        broken=newcomer.broken if newcomer else 0,
        failure=failure,
    )


class _Newcomer:
    """The new one's counts, its classes brought into the old one's order."""

    def __init__(self, new: Running, old: ModelMetadata, dataset: Dataset, indices: Labels) -> None:
        self._new = new
        order = class_map(new.metadata.labels, old.labels)
        self.comparable = order is not None
        self._back = None if order is None else np.argsort(order)
        try:
            truth = align_labels(dataset, new.metadata.labels)
        except DataError:  # renamed classes are a finding of the tensors' gate; by number they are still the same
            if order is None:
                raise
            truth = align_labels(dataset, old.labels)
        self._truth = truth.test.labels[indices]
        self.tally = Tally(old.labels if self.comparable else new.metadata.labels, order)
        self.distance, self.shift = Distance(), Shift()
        self.broken = 0

    def add(
        self, pixels: NDArray[np.uint8], part: slice, numbers: Sequence[int], old: Logits, reference: Answers
    ) -> None:
        logits = self._new.answers(pixels)
        answers = self.tally.read(logits, self._truth[part])
        self.tally.add(answers, numbers, reference if self.comparable else None)
        self.broken += int((reference.finite & ~answers.finite).sum())
        if self._back is not None:
            self.distance.add(old, logits[:, self._back])
            self.shift.add(old, logits[:, self._back])


def _pixels(
    dataset: Dataset, indices: Labels, specs: Sequence[Preprocess]
) -> Generator[tuple[list[NDArray[np.uint8]], Labels], None, None]:
    """The same pictures for each preprocessing, decoded once where they are equal."""
    different = list(dict.fromkeys(specs))
    streams = [pixel_batches(dataset.test, spec, BATCH, indices=indices) for spec in different]
    for batches in zip(*streams, strict=True):
        found = {spec: pixels for spec, (pixels, _) in zip(different, batches, strict=True)}
        yield [found[spec] for spec in specs], batches[0][1]
