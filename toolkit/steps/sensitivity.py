"""Measure what each layer's quantisation costs."""

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.outputs import check_replace, write_record

if TYPE_CHECKING:
    from calibration.feeds import TensorBatch
    from calibration.sensitivity import Sensitivity
    from toolkit.building.pictures import Held
    from toolkit.data.dataset import Dataset


def sensitivity(
    graph: str | PathLike[str],
    data: "str | PathLike[str] | Dataset",
    *,
    table: str | PathLike[str] | None = None,
    precision: str = "int8",
    images: int = 256,
    seed: int = 0,
    output: str | PathLike[str] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = QUIET,
    on_note: Callable[[str], None] | None = None,
) -> "Sensitivity":
    """Quantise each layer of a master graph alone and measure the error at the logits.

    The images are of the train split, others than those calibrated on as far as there are any, so that the
    test split stays unseen by whatever is decided on these figures.

    Args:
        graph: the FP32 master graph, with its preprocessing inside.
        data: a data set, or what ``toolkit.data.open_dataset`` takes.
        table: its calibration table; None takes the one beside the graph.
        precision: "int8" or "fp8".
        images: how many; fewer where the split has no more.
        seed: of their choice.
        output: a JSON file to write; None writes none.
        batch_size: images a run.
        threads: CPU threads; None takes all cores.
        force: replace an output that was made from another graph.
        progress: told of every pass over the images.
        on_note: told of what the user should know of the images.

    Returns:
        The figures of every layer, and of all of them together.

    Raises:
        InputError: an option makes no sense, or there is no table.
        GraphError: the graph can't be used, carries no preprocessing, or is quantised already.
        TableError: the table is damaged, or was made from another graph.
        DataError: the data can't be used.
    """
    require("onnx", "Measuring sensitivity", "onnxruntime")
    require("onnxruntime", "Measuring sensitivity", "onnxruntime")
    from calibration.ranges import refuse_typed
    from calibration.rename import fit
    from calibration.sensitivity import sensitivity as measure
    from calibration.table import check_table
    from export.graph import load_graph, read_metadata, require_metadata, weights_digest
    from toolkit.building.choose import QUANTISED
    from toolkit.building.keep import with_kept
    from toolkit.building.pictures import search_pictures
    from toolkit.building.ranges import table_for
    from toolkit.building.tensor_samples import search_tensors
    from toolkit.data import align_labels, open_dataset
    from toolkit.data.batches import check_counts
    from toolkit.data.tensors import open_tensors

    if precision not in QUANTISED:
        raise InputError(f"{precision} quantises no layer", f"give {' or '.join(QUANTISED)}")
    check_counts(images, batch_size, threads)
    path = Path(graph)
    model = load_graph(path)
    refuse_typed(model, f"'{path}'")
    metadata = require_metadata(read_metadata(model), path)
    weights = weights_digest(model)
    if output is not None:
        check_replace(Path(output), weights, _made_from, force=force)
    found = table_for(path, Path(table) if table is not None else None, precision, measures=False)
    found = fit(found, model)
    check_table(found, weights, metadata.preprocess_digest)  # before minutes of decoding pictures
    found = with_kept(model, found)
    if metadata.pictures is None:
        tensors = open_tensors(data, metadata)
        name = tensors.name
        batches: Sequence[TensorBatch] | Held
        batches, labels, notes = search_tensors(tensors, found, images, seed=seed, batch_size=batch_size)
    else:
        dataset = open_dataset(data, progress=progress)
        name = dataset.name
        if metadata.scores != "none":
            dataset = align_labels(dataset, metadata.labels)
        pictures, notes = search_pictures(dataset, metadata, found, images, seed=seed, batch_size=batch_size)
        batches = held = pictures.held()
        labels = held.labels if metadata.scores != "none" else None
    for note in notes:
        if on_note is not None:
            on_note(note)
    result = measure(path, found, batches, labels=labels, progress=progress, threads=threads)
    if output is not None:
        record = {
            **result.to_json(),
            "graph": str(path),
            "weights": weights,
            "table": found.digest(),
            "precision": precision,
            "data": name,
            "split": "train",
            "seed": seed,
            "notes": list(notes),
        }
        write_record(Path(output), record)
    return result


def _made_from(path: Path) -> str | None:
    """The digest of the weights that an existing record is about."""
    value = json.loads(path.read_text(encoding="utf-8"))
    return str(value["weights"]) if isinstance(value, dict) and "weights" in value else None
