"""One artifact under evaluation: its classes matched with the data's and the reference's, and its counts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.provenance import Provenance, overlap_note, unseen_note
from engines.errors import InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.passport import find_passport
from engines.preprocess import Preprocess
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.accuracy.answers import Answers, Labels, class_map
from toolkit.comparison.accuracy.tally import Tally
from toolkit.comparison.measuring.plan import Entry
from toolkit.data import Dataset, align_labels


class Candidate:
    """One artifact under evaluation.

    Args:
        entry: where its accuracy goes, and its error.
        metadata: its labels and preprocessing.
        worker: its process.
        dataset: whose test split is evaluated.
        indices: int64 [N], which images of it.

    Raises:
        DataError: the data has a class that the artifact doesn't know.
    """

    def __init__(
        self, entry: Entry, metadata: ModelMetadata, worker: WorkerProcess, dataset: Dataset, indices: Labels
    ) -> None:
        self.entry, self._metadata, self._worker = entry, metadata, worker
        aligned = align_labels(dataset, metadata.labels)
        self._truth = aligned.test.labels[indices]
        self._labels = aligned.labels
        self._tally = Tally(aligned.labels)
        self._comparable = False
        self._calibration = _calibration_of(entry)
        self._repeated = 0

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def preprocess(self) -> Preprocess:
        return self._metadata.preprocess

    @property
    def place(self) -> int:
        """How many images it has counted, all the first ones."""
        return len(self._truth) if self.entry.accuracy is not None else self._tally.images

    def refer_to(self, reference: "Candidate") -> None:
        """Compare with the reference from now on, in its class order and under its names."""
        mapping = class_map(self._labels, reference._labels)
        if mapping is None:
            self._note("has another number of classes than the reference: no agreement")
            return
        self._comparable = True
        same = np.array_equal(mapping, np.arange(len(mapping)))
        self._tally = Tally(reference._labels, None if same else mapping)

    def read(self, pixels: NDArray[np.uint8], start: int) -> Answers:
        """Run the images from ``start`` on, uint8 [N, height, width, channels]; counts nothing.

        Raises:
            ToolkitError: it can't, or its answers don't fit its labels.
        """
        values = self._worker.logits(pixels, None if self._metadata.uint8_input else self._metadata.preprocess)
        if values.shape[1] != len(self._metadata.labels):
            raise InputError(
                f"'{self.name}' gives {values.shape[1]} logits for {len(self._metadata.labels)} labels",
                "export it again with its own labels",
            )
        return self._tally.read(values, self._truth[start : start + len(values)])

    def count(self, answers: Answers, pixels: NDArray[np.uint8], images: Labels, reference: Answers | None) -> None:
        """Count one batch of answers.

        Args:
            answers: what :meth:`read` gave.
            pixels: what it was asked about.
            images: int64 [N], their indices in the test split.
            reference: the reference's answers; None without one.
        """
        if self._calibration is not None:
            self._repeated += self._calibration.repeated(pixels)
        self._tally.add(answers, images.tolist(), reference if self._comparable else None)

    def conclude(self, *, with_reference: bool) -> None:
        """Give the entry its accuracy, and what casts doubt on it; nothing where it had one before."""
        if self.entry.accuracy is not None:
            return
        self.entry.accuracy = self._tally.result(with_reference=with_reference)
        if self._tally.non_finite:
            self._note(f"logits of {self._tally.non_finite} images hold NaN or infinity")
        if self._calibration is not None:
            self._note(overlap_note(self._repeated, self._tally.images))
            self._note(unseen_note(self._calibration.unseen))

    def state(self) -> dict[str, Any]:
        """Its counts, as JSON has them."""
        return {**self._tally.state(), "repeated": self._repeated}

    def restore(self, state: Mapping[str, Any] | None, places: Collection[int]) -> None:
        """Go on from what :meth:`state` gave, at one of these places; from the beginning where that can't be."""
        if state is None or state.get("images") not in places:
            return
        tally = Tally(self._tally.labels, self._tally.to_reference)
        try:
            tally.restore(state)
            self._repeated = int(state["repeated"])
        except (KeyError, TypeError, ValueError, IndexError):
            return
        self._tally = tally

    def _note(self, text: str | None) -> None:
        """Tell it once, though an evaluation that goes on says it again."""
        if text and text not in self.entry.notes:
            self.entry.notes.append(text)


def require_metadata(name: str, metadata: ModelMetadata | None) -> ModelMetadata:
    """What an artifact can't be asked without.

    Raises:
        InputError: it carries none.
    """
    if metadata is None:
        raise InputError(
            f"'{name}' carries no labels and no preprocessing",
            "export its model with this toolkit, or measure its speed alone with `toolkit bench`",
        )
    return metadata


def _calibration_of(entry: Entry) -> Provenance | None:
    """What the passport tells of an engine's calibration; None without one, or of one for another file."""
    try:
        passport = find_passport(Path(entry.contestant.path))
    except ToolkitError:
        return None
    if passport is None or passport.calibration is None or passport.digest != entry.digest:
        return None
    return Provenance.of(passport.calibration)
