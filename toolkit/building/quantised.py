"""The table that an INT8 or FP8 engine is made from: found or measured, with the layers that stay unquantised."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.rename import fit
from calibration.table import CalibrationTable
from engines.errors import GraphError, UnsupportedError
from engines.progress import QUIET, Progress
from export.graph import read_metadata
from toolkit.building.budget import Budget, hold
from toolkit.building.judge import Judgement
from toolkit.building.keep import kept_nodes, with_kept
from toolkit.building.pictures import Pictures, evaluation_pictures, labelled, search_pictures
from toolkit.building.ranges import table_for, table_path
from toolkit.data import Dataset, open_dataset

if TYPE_CHECKING:
    import onnx

    from engines.metadata import ModelMetadata
    from toolkit.building.make import Candidates
    from toolkit.building.report import BudgetReport
    from toolkit.building.request import RangesRequest

Measure = Callable[["str | Path | Dataset"], CalibrationTable]
"""Calibrates on data, and writes the table beside the graph."""


@dataclass(frozen=True)
class Prepared:
    """What a quantised graph is made from.

    Attributes:
        table: ranges, and the layers that stay unquantised.
        file: where the table lies; with a budget it holds the layers kept for it.
        notes: what the user should know, a line each.
        budget: how the accuracy was held; None where none was asked for.
        weights: the digest of the master graph's weights, where it was made to measure the table.
    """

    table: CalibrationTable
    file: Path
    notes: tuple[str, ...] = ()
    budget: "BudgetReport | None" = None
    weights: str | None = None


def prepare(
    path: Path,
    model: "onnx.ModelProto",
    precision: str,
    asked: "RangesRequest",
    measure: Measure,
    candidates: "Candidates",
    progress: Progress = QUIET,
) -> Prepared:
    """Find or measure the table, and choose what is kept unquantised.

    Args:
        path: the master graph's file.
        model: its content.
        precision: "int8" or "fp8".
        asked: where ranges come from, and how accurate the result must be.
        measure: calibrates.
        candidates: makes what is judged, for an accuracy budget.
        progress: told of the work.

    Raises:
        InputError: a layer to keep that isn't there, no data and no table, and the like.
        GraphError: the graph carries no preprocessing, so that no accuracy can be measured.
        UnsupportedError: it is no classifier of pictures, and a budget is asked for.
        TableError: the table is damaged, or of another graph.
        DataError: the data can't be used, or isn't labelled.
        BudgetError: no choice of layers holds the budget.
    """
    kept_nodes(model, asked.keep)  # a mistyped name is told before minutes of calibration
    data, labelled_data = asked.data, None
    metadata = read_metadata(model)
    if asked.max_drop is not None and data is not None:
        if metadata is None:
            raise GraphError(
                f"'{path}' doesn't say what its classes are and how its images are preprocessed",
                "export it with `toolkit export`, which stores that",
            )
        if metadata.pictures is None or metadata.scores == "none":
            raise UnsupportedError(
                f"an accuracy budget is held on labelled pictures: {metadata.architecture} is no classifier of those",
                "build without --max-drop, and see with `toolkit compare` how near its outputs are",
            )
        data = open_dataset(data, progress=progress)
        labelled_data = labelled(data, metadata)
    weights = None
    if data is None or asked.table is not None:
        found = fit(table_for(path, asked.table, precision), model)
    else:
        found = measure(data)
        weights = found.weights
    table = with_kept(model, found, asked.keep)
    file = asked.table or table_path(path, precision)
    if labelled_data is None or metadata is None:
        return Prepared(table, file, weights=weights)
    table, budget, notes = _hold(path, model, table, labelled_data, metadata, asked, candidates, progress)
    if table.keep != found.keep:
        table.write(file)
    return Prepared(table, file, notes, budget, weights)


def _hold(
    path: Path,
    model: "onnx.ModelProto",
    table: CalibrationTable,
    data: Dataset,
    metadata: "ModelMetadata",
    asked: "RangesRequest",
    candidates: "Candidates",
    progress: Progress,
) -> tuple[CalibrationTable, "BudgetReport", tuple[str, ...]]:
    search, notes = search_pictures(data, metadata, table, asked.search_images, seed=asked.seed)
    evaluation = evaluation_pictures(data, metadata, asked.eval_images, seed=asked.seed)
    budget = Budget(float(asked.max_drop or 0), search.held(), evaluation)
    table, report = hold(
        path, model, table, budget, candidates.make, proxy=candidates.target == "onnxruntime", progress=progress
    )
    return table, report, (*notes, *_doubts(table, evaluation, report.judged))


def _doubts(table: CalibrationTable, evaluation: Pictures, judged: Judgement) -> Iterable[str]:
    """What casts doubt on an accuracy."""
    from calibration.provenance import Provenance, overlap_note, record_of, unseen_note

    seen = Provenance.of(record_of(table))
    repeated = sum(seen.repeated(pixels) for pixels, _ in evaluation.pixels())
    notes = [note for note in (overlap_note(repeated, len(evaluation)), unseen_note(seen.unseen)) if note]
    if judged.accuracy_fp32 < 1.5 / len(set(evaluation.labels.tolist())):
        notes.append(
            f"FP32 itself is right on only {100 * judged.accuracy_fp32:.1f} % of the evaluated images: "
            f"a drop from that says little, is this the data that the model was trained for?"
        )
    return notes
