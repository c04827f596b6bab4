"""Accuracy of every artifact on the same images, through its own session, in fixed memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.provenance import Provenance, overlap_note, unseen_note
from engines.errors import InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.passport import find_passport
from engines.preprocess import Preprocess
from engines.progress import Progress
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.accuracy import Tally, class_map
from toolkit.comparison.plan import Entry, Plan
from toolkit.comparison.record import DataFacts
from toolkit.data import Dataset, align_labels, choose, pixel_batches

BATCH = 32
"""Images that are decoded and sent at once; a session that takes fewer gets them in parts."""

Labels = NDArray[np.int64]


class _Evaluated:
    """One artifact under evaluation: its labels in its own class order, and its counts."""

    def __init__(self, entry: Entry, metadata: ModelMetadata, worker: WorkerProcess, labels: Labels) -> None:
        self.entry, self.metadata, self.worker, self.labels = entry, metadata, worker, labels
        self.tally = Tally()
        self._calibration = _calibration_of(entry)
        self._repeated = 0
        self._from_reference: Labels | None = None

    def refer_to(self, reference: ModelMetadata) -> None:
        """Count agreement from now on; class numbers are translated from the reference's order."""
        mapping = class_map(self.metadata.labels, reference.labels)
        if mapping is None:
            self.entry.notes.append("has another number of classes than the reference: no agreement")
        else:
            self._from_reference = np.argsort(mapping)

    def count(self, pixels: NDArray[np.uint8], start: int, reference: Labels | None) -> Labels:
        """Run and count the images from ``start`` on; ``reference`` is the reference's answer, -1 for none.

        Returns:
            int64 [N]: its top-1 class numbers in its own order.
        """
        logits = self.worker.logits(pixels, None if self.metadata.uint8_input else self.metadata.preprocess)
        if logits.shape[1] != len(self.metadata.labels):
            raise InputError(
                f"'{self.entry.name}' gives {logits.shape[1]} logits for {len(self.metadata.labels)} labels",
                "export it again with its own labels",
            )
        answers = None
        if reference is not None and self._from_reference is not None:
            answers = np.where(reference >= 0, self._from_reference[reference], -1)
        if self._calibration is not None:
            self._repeated += self._calibration.repeated(pixels)
        return self.tally.add(logits, self.labels[start : start + len(logits)], answers)

    def conclude(self, *, with_agreement: bool) -> None:
        """Give the entry its accuracy, and what casts doubt on it."""
        self.entry.accuracy = self.tally.result(with_agreement=with_agreement)
        if self.tally.non_finite:
            self.entry.notes.append(f"logits of {self.tally.non_finite} images hold NaN or infinity")
        if self._calibration is not None:
            notes = overlap_note(self._repeated, self.tally.images), unseen_note(self._calibration.unseen)
            self.entry.notes.extend(note for note in notes if note)


def _calibration_of(entry: Entry) -> Provenance | None:
    """What the passport tells of an engine's calibration; None without one, or of one for another file."""
    try:
        passport = find_passport(Path(entry.contestant.path))
    except ToolkitError:
        return None
    if passport is None or passport.calibration is None or passport.digest != entry.digest:
        return None
    return Provenance.of(passport.calibration)


def evaluate(
    plan: Plan,
    dataset: Dataset,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    *,
    reference: str,
    progress: Progress,
) -> DataFacts:
    """Fill in the accuracy of every entry that runs; one that fails gets the error.

    The reference answers each batch first, so that agreement needs no answers kept. Images are decoded
    once for each different preprocessing among the artifacts.

    Raises:
        ToolkitError: the images can't be decoded, or no artifact's classes are the data's.
    """
    indices = choose(dataset.test, plan.images or len(dataset.test), plan.pace.seed)
    evaluated = _prepare(dataset, entries, workers, indices)
    order = sorted(evaluated, key=lambda name: name != reference)
    if reference in evaluated:
        for name in order[1:]:
            evaluated[name].refer_to(evaluated[reference].metadata)
    digest = hashlib.sha256()
    start = 0
    progress.begin("Evaluating", len(indices), "images")
    for pixels, labels in _pixels(dataset, indices, [evaluated[name].metadata.preprocess for name in order]):
        answers: Labels | None = None
        for name in order:
            one = evaluated[name]
            if not one.entry.runs:
                continue
            try:
                found = one.count(pixels[one.metadata.preprocess], start, answers)
            except ToolkitError as error:
                one.entry.error = error
            else:
                answers = found if name == reference else answers
        digest.update(pixels[evaluated[order[0]].metadata.preprocess].tobytes())
        digest.update(labels.tobytes())
        start += len(labels)
        progress.advance(len(labels))
    progress.end()
    _conclude(evaluated, reference)
    return DataFacts(dataset.name, "test", len(indices), plan.pace.seed, f"sha256:{digest.hexdigest()}")


def _prepare(
    dataset: Dataset, entries: Mapping[str, Entry], workers: Mapping[str, WorkerProcess], indices: Labels
) -> dict[str, _Evaluated]:
    """Match the data's classes with each artifact's; one that has others, or none, gets the error."""
    evaluated = {}
    for name, entry in entries.items():
        if not entry.runs:
            continue
        try:
            if entry.metadata is None:
                raise InputError(
                    f"'{name}' carries no labels and no preprocessing",
                    "export its model with this toolkit, or measure its speed alone with `toolkit bench`",
                )
            labels = align_labels(dataset, entry.metadata.labels).test.labels[indices]
            evaluated[name] = _Evaluated(entry, entry.metadata, workers[name], labels)
        except ToolkitError as error:
            entry.error = error
    if not evaluated:
        raise next(entry.error for entry in entries.values() if entry.error is not None)
    return evaluated


def _conclude(evaluated: Mapping[str, _Evaluated], reference: str) -> None:
    whole = reference in evaluated and evaluated[reference].entry.runs
    for one in evaluated.values():
        if one.entry.runs:
            one.conclude(with_agreement=whole)


def _pixels(
    dataset: Dataset, indices: Labels, specs: Sequence[Preprocess]
) -> Iterator[tuple[dict[Preprocess, NDArray[np.uint8]], Labels]]:
    """The same images for every preprocessing, decoded once for each different one."""
    different = list(dict.fromkeys(specs))
    streams = [pixel_batches(dataset.test, spec, BATCH, indices=indices) for spec in different]
    for batches in zip(*streams, strict=True):
        yield {spec: pixels for spec, (pixels, _) in zip(different, batches, strict=True)}, batches[0][1]
