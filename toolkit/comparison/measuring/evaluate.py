"""Accuracy of every artifact on the same images, through its own session, in fixed memory."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import ToolkitError
from engines.preprocess import Preprocess
from engines.progress import Progress
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.accuracy.answers import Answers, Labels
from toolkit.comparison.measuring.candidate import Candidate, require_metadata
from toolkit.comparison.measuring.pictures import pictures_of
from toolkit.comparison.measuring.plan import Entry, Plan
from toolkit.comparison.records.record import DataFacts
from toolkit.data import Dataset, choose, pixel_batches

BATCH = 32
"""Images that are decoded and sent at once; a session that takes fewer gets them in parts."""

KEEP_SECONDS = 5.0
"""Between two states handed out to be kept."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves besides the accuracy in each entry.

    Attributes:
        data: what was evaluated.
        pictures: images of the worst disagreements, by index in the test split: ``data:`` URLs.
    """

    data: DataFacts
    pictures: Mapping[int, str] = field(default_factory=dict)


def evaluate(
    plan: Plan,
    dataset: Dataset,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    *,
    reference: str,
    progress: Progress,
    known: Mapping[str, Any] | None = None,
    keep: Callable[[Mapping[str, Any]], None] = lambda state: None,
) -> Evaluated:
    """Fill in the accuracy of every entry that runs and has none; one that fails gets the error.

    The reference answers each batch first, so that comparing with it needs no answers kept. Images are decoded
    once for each different preprocessing among the artifacts. Artifacts answer one after the other: each uses
    all cores, so that two at once take as long as one by one.

    Args:
        plan: says how many images, and the seed that chooses them.
        dataset: its test split is evaluated.
        entries: the artifacts, by name.
        workers: the processes of those that run.
        reference: the name of the one that the others are compared with.
        progress: told of the images.
        known: a state that ``keep`` got of the same artifacts and images; what it has counted isn't again.
        keep: called with the state so far, plain JSON, after a batch and at most every :data:`KEEP_SECONDS`.

    Raises:
        ToolkitError: the images can't be decoded, or no artifact's classes are the data's.
    """
    indices = choose(dataset.test, plan.images or len(dataset.test), plan.pace.seed)
    evaluation = _Evaluation(_candidates(dataset, entries, workers, indices, reference), reference, indices)
    evaluation.restore(known or {})
    first = evaluation.first
    progress.begin("Evaluating", len(indices), "images")
    progress.advance(first)
    kept = time.monotonic()
    for pixels, labels in _pixels(dataset, indices[first:], evaluation.preprocesses):
        evaluation.count(pixels, labels)
        progress.advance(len(labels))
        if time.monotonic() - kept > KEEP_SECONDS and (state := evaluation.state()):
            keep(state)
            kept = time.monotonic()
    progress.end()
    evaluation.conclude()
    judged = [entry.accuracy for entry in entries.values() if entry.accuracy is not None]
    pictures = pictures_of(judged, dataset.test, evaluation.preprocesses[0])
    data = DataFacts(dataset.name, "test", len(indices), plan.pace.seed, f"sha256:{evaluation.digest}")
    return Evaluated(data, pictures)


class _Evaluation:
    """All artifacts on their way through the images.

    Each has its own place, the images that its tally has counted: after an interruption one that failed before, and
    runs now, is taken through what it missed while the others wait.
    """

    def __init__(self, candidates: dict[str, Candidate], reference: str, indices: Labels) -> None:
        self._reference, self._indices = reference, indices
        self._candidates = sorted(candidates.values(), key=lambda one: one.name != reference)
        self._start = self._digested = 0
        self.digest = ""

    @property
    def preprocesses(self) -> list[Preprocess]:
        """Every artifact's, the reference's first."""
        return [one.preprocess for one in self._candidates]

    @property
    def first(self) -> int:
        """The image to go on with."""
        return self._start

    def count(self, pixels: Mapping[Preprocess, NDArray[np.uint8]], labels: Labels) -> None:
        """Take the next batch through every artifact that hasn't counted it."""
        start, images = self._start, self._indices[self._start : self._start + len(labels)]
        running = [one for one in self._candidates if one.entry.runs]
        due = [one for one in running if one.place == start]
        answers: Answers | None = None
        for one in running:
            leads = one.name == self._reference
            if one not in due and not (leads and due):
                continue
            try:
                found = one.read(pixels[one.preprocess], start)
            except ToolkitError as error:
                one.entry.error = error
                continue
            if one in due:
                one.count(found, pixels[one.preprocess], images, answers)
            if leads:
                answers = found
        if self._digested == start:
            chain = hashlib.sha256(bytes.fromhex(self.digest))
            chain.update(pixels[self.preprocesses[0]].tobytes())
            chain.update(labels.tobytes())
            self.digest = chain.hexdigest()
            self._digested += len(labels)
        self._start += len(labels)

    def conclude(self) -> None:
        """Give each entry its accuracy; what was counted against a reference that failed isn't in it."""
        whole = self._leads()
        for one in self._candidates:
            if one.entry.runs:
                one.conclude(with_reference=whole)

    def state(self) -> dict[str, Any] | None:
        """Everything counted so far; None when the reference has failed, so that it must be done again."""
        if self._reference in {one.name for one in self._candidates} and not self._leads():
            return None
        return {
            "reference": self._reference,
            "images": self._digested,
            "digest": self.digest,
            "tallies": {one.name: one.state() for one in self._candidates if one.entry.runs},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; from the beginning where it doesn't fit."""
        if state.get("reference") != self._reference:
            return
        ends = {*range(0, len(self._indices), BATCH), len(self._indices)}
        for one in self._candidates:
            one.restore(state.get("tallies", {}).get(one.name), ends)
        if state.get("images") in ends and _DIGEST.fullmatch(state.get("digest", "")):
            self._digested, self.digest = state["images"], state["digest"]
        places = [self._digested, *(one.place for one in self._candidates if one.entry.accuracy is None)]
        self._start = min(places)

    def _leads(self) -> bool:
        return any(one.name == self._reference and one.entry.runs for one in self._candidates)


def _candidates(
    dataset: Dataset,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    indices: Labels,
    reference: str,
) -> dict[str, Candidate]:
    """Match the data's classes with each artifact's; one that has others, or none, gets the error."""
    found = {}
    for name, entry in entries.items():
        if not entry.runs:
            continue
        try:
            metadata = require_metadata(name, entry.metadata)
            found[name] = Candidate(entry, metadata, workers[name], dataset, indices)
            if others := [spec.name for spec in metadata.given if spec.name != metadata.scored]:
                entry.note(f"is judged by '{metadata.scored}'; {', '.join(others)} are not compared")
        except ToolkitError as error:
            entry.error = error
    if not found:
        raise next(entry.error for entry in entries.values() if entry.error is not None)
    if leader := found.get(reference):
        for name, one in found.items():
            if name != reference:
                one.refer_to(leader)
    return found


def _pixels(
    dataset: Dataset, indices: Labels, specs: Sequence[Preprocess]
) -> Iterator[tuple[dict[Preprocess, NDArray[np.uint8]], Labels]]:
    """The same images for every preprocessing, decoded once for each different one."""
    different = list(dict.fromkeys(specs))
    streams = [pixel_batches(dataset.test, spec, BATCH, indices=indices) for spec in different]
    for batches in zip(*streams, strict=True):
        yield {spec: pixels for spec, (pixels, _) in zip(different, batches, strict=True)}, batches[0][1]
