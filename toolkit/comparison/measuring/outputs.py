"""What every artifact of a network that isn't a classifier of pictures gives, held against the reference's outputs.

A network that takes tensors and is a classifier has an accuracy too, where its data has labels.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engines.errors import DataError, InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.progress import Progress
from engines.tensors import Array
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.accuracy.answers import Answers, Labels
from toolkit.comparison.accuracy.tally import Tally
from toolkit.comparison.fidelity import Fidelity, OutputTally
from toolkit.comparison.measuring.candidate import require_metadata
from toolkit.comparison.measuring.evaluate import BATCH, Evaluated
from toolkit.comparison.measuring.plan import Entry, Plan
from toolkit.comparison.records.record import DataFacts
from toolkit.data import Dataset, choose, pixel_batches
from toolkit.data.tensors import TensorDataset, choose_samples

if TYPE_CHECKING:
    from engines.preprocess import Preprocess

Outputs: TypeAlias = Mapping[str, Array]
Samples: TypeAlias = Array | Mapping[str, Array]
"""Pixels, uint8 [N, height, width, channels]; or an array an input."""


def is_plain_classifier(metadata: ModelMetadata | None) -> bool:
    """Whether top-1 on labelled pictures is what a network is for; so it is of one that says nothing of itself."""
    return metadata is None or (metadata.pictures is not None and metadata.scores != "none")


def evaluate_outputs(
    plan: Plan,
    dataset: Dataset | TensorDataset,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    *,
    reference: str,
    progress: Progress,
) -> Evaluated:
    """Fill in the fidelity of every entry that runs, and the accuracy of classifiers; one that fails gets the error.

    An interrupted evaluation begins anew. The labels of pictures are not used.

    Args:
        plan: says how many samples, and the seed that chooses them.
        dataset: its test split is evaluated: pictures, or the tensors that the network takes.
        entries: the artifacts, by name.
        workers: the processes of those that run.
        reference: the name of the one that the others are compared with.
        progress: told of the samples.

    Raises:
        DataError: the data isn't what the network takes.
        InputError: the reference has an output that is never finite.
        ToolkitError: the samples can't be read, or the reference can't be asked.
    """
    leader = require_metadata(reference, entries[reference].metadata)
    judged = []
    for name, entry in entries.items():
        if entry.runs:
            try:
                judged.append(_Judged(entry, workers[name], leader, dataset, leads=name == reference))
            except ToolkitError as error:
                entry.error = error
    failed = entries[reference].error
    if failed is not None:
        raise failed
    judged.sort(key=lambda one: not one.leads)
    count = plan.images or len(dataset.test)
    if isinstance(dataset, TensorDataset):
        indices = choose_samples(dataset.test, count, plan.pace.seed)
    else:
        indices = choose(dataset.test, count, plan.pace.seed)
    digest = hashlib.sha256()
    progress.begin("Evaluating", len(indices), "samples")
    start = 0
    for samples in _batches(dataset, indices, [one.preprocess for one in judged]):
        lead = samples[judged[0].preprocess]
        arrays = list(lead.values()) if isinstance(lead, Mapping) else [lead]
        images = indices[start : start + len(arrays[0])]
        _ask(judged, samples, images)
        for array in arrays:
            digest.update(array.tobytes())
        start += len(images)
        progress.advance(len(images))
    progress.end()
    whole = entries[reference].runs
    for one in judged:
        if one.entry.runs:
            one.conclude(with_reference=whole)
    facts = DataFacts(dataset.name, "test", len(indices), plan.pace.seed, f"sha256:{digest.hexdigest()}")
    return Evaluated(facts)


def _ask(judged: Sequence["_Judged"], samples: Mapping["Preprocess | None", Samples], images: Labels) -> None:
    """Take a batch through every artifact, the reference first."""
    expected: Outputs | None = None
    answers: Answers | None = None
    for one in judged:
        if not one.entry.runs:
            continue
        try:
            outputs = one.read(samples[one.preprocess])
            if one.leads:
                expected = outputs
            elif expected is not None:
                one.count(expected, outputs)
            found = one.score(outputs, images, answers)
        except ToolkitError as error:
            one.entry.error = error
            continue
        answers = found if one.leads else answers


class _Judged:
    """One artifact under evaluation."""

    def __init__(
        self,
        entry: Entry,
        worker: WorkerProcess,
        leader: ModelMetadata,
        dataset: Dataset | TensorDataset,
        *,
        leads: bool,
    ) -> None:
        self.entry, self.leads, self._worker = entry, leads, worker
        self._metadata = mine = require_metadata(entry.name, entry.metadata)
        if (mine.pictures is None) != isinstance(dataset, TensorDataset):
            takes, holds = ("tensors", "pictures") if mine.pictures is None else ("pictures", "tensors")
            remedy = "an .npz with an array an input" if mine.pictures is None else "pictures, or compare it alone"
            raise DataError(f"'{entry.name}' takes {takes}, and '{dataset.name}' holds {holds}", f"give {remedy}")
        if (mine.scores, mine.labels) != (leader.scores, leader.labels):
            raise InputError(f"'{entry.name}' is of another network than the reference", "compare one network's")
        self._names = [spec.name for spec in leader.given]
        self._tallies = {name: OutputTally(name) for name in self._names}
        self._samples = 0
        self._scored = leader.scored
        labels = dataset.test.labels if isinstance(dataset, TensorDataset) else None
        self._truth = labels if self._scored is not None else None
        self._tally = Tally(mine.labels)

    @property
    def preprocess(self) -> "Preprocess | None":
        return self._metadata.pictures

    def read(self, samples: Samples) -> Outputs:
        """What it gives for a batch, under the reference's names."""
        normalise = None if self._metadata.uint8_input else self._metadata.pictures
        found = self._worker.answers(samples, normalise)
        if len(found) == len(self._names) == 1:
            found = dict(zip(self._names, found.values(), strict=True))
        if missing := [name for name in self._names if name not in found]:
            raise InputError(f"'{self.entry.name}' doesn't give {missing[0]}", "compare artifacts of one network")
        self._samples += len(found[self._names[0]])
        return found

    def count(self, reference: Outputs, outputs: Outputs) -> None:
        """Count one batch against the reference's."""
        for name, tally in self._tallies.items():
            if reference[name].shape != outputs[name].shape:
                raise InputError(
                    f"'{self.entry.name}' gives {list(outputs[name].shape)} for {name}, the reference "
                    f"{list(reference[name].shape)}",
                    "compare artifacts of one network",
                )
            tally.add(reference[name], outputs[name])

    def score(self, outputs: Outputs, images: Labels, reference: Answers | None) -> Answers | None:
        """Count right answers of a classifier; None for others, and without labels."""
        if self._truth is None or self._scored is None:
            return None
        values = np.asarray(outputs[self._scored], np.float32).reshape(len(images), -1)
        answers = self._tally.read(values, self._truth[images])
        self._tally.add(answers, images.tolist(), reference)
        return answers

    def conclude(self, *, with_reference: bool) -> None:
        """Give the entry what was found.

        Raises:
            InputError: the reference has an output that is never finite.
        """
        if self._truth is not None:
            self.entry.accuracy = self._tally.result(with_reference=with_reference)
        outputs = [tally.result() for tally in self._tallies.values()] if with_reference and not self.leads else []
        self.entry.fidelity = Fidelity(self._samples, tuple(outputs))
        if self.entry.fidelity.non_finite:
            self.entry.note(f"gives NaN or infinity for {self.entry.fidelity.non_finite} samples")
        left_out = max(tally.left_out for tally in self._tallies.values())
        if left_out and left_out == self._samples:
            raise InputError(
                "the reference gives NaN or infinity for every sample", "give another with --reference, or other data"
            )
        if left_out:
            self.entry.note(f"is not held against the reference's NaN or infinity for {left_out} samples")


def _batches(
    dataset: Dataset | TensorDataset, indices: Labels, specs: Sequence["Preprocess | None"]
) -> Iterator[Mapping["Preprocess | None", Samples]]:
    """The same samples for every preprocessing; None for tensors."""
    if isinstance(dataset, TensorDataset):
        for feeds in dataset.test.batches(BATCH, indices):
            yield {None: feeds}
        return
    different = list(dict.fromkeys(spec for spec in specs if spec is not None))
    streams = [pixel_batches(dataset.test, spec, BATCH, indices=indices) for spec in different]
    for batches in zip(*streams, strict=True):
        yield {spec: pixels for spec, (pixels, _) in zip(different, batches, strict=True)}
