"""Find where two graphs of one network part."""

import json
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import GraphError, InputError, UnsupportedError
from engines.optional import require
from engines.progress import QUIET, Progress
from engines.store import open_store
from toolkit.artifacts import kind_of
from toolkit.comparison.measuring.plan import artifact_of
from toolkit.outputs import check_replace, write_record

if TYPE_CHECKING:
    from calibration.bisection.record import Bisection
    from engines.metadata import ModelMetadata
    from export.onnxlib import onnx
    from toolkit.data.dataset import Dataset


def bisect(
    first: str | PathLike[str],
    second: str | PathLike[str],
    data: "str | PathLike[str] | Dataset",
    *,
    images: int = 64,
    seed: int = 0,
    mend: bool = True,
    output: str | PathLike[str] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    progress: Progress = QUIET,
    on_note: Callable[[str], None] | None = None,
) -> "Bisection":
    """Find the first layer of a graph whose own error is over what its types must cost, and what mends it.

    The images are of the train split: which layers to keep is a choice, and the test split stays unseen by choices.

    Args:
        first: the reference: mostly the FP32 master graph.
        second: what to judge: a typed graph, or another export of the network, which ONNX Runtime computes as
            written; either in another backend ("model.onnx@openvino"); or an engine, whose typed graph lies beside
            it. In a backend tensors are marked as outputs, which may change what it fuses: the result says how far
            that moved the logits (``elsewhere``).
        data: a data set, or what ``toolkit.data.open_dataset`` takes.
        images: how many; fewer where the split has no more.
        seed: of their choice.
        mend: whether to look for the layers to keep wide.
        output: a JSON file to write; None writes none.
        batch_size: images a run; memory grows with it.
        device: of the backend that runs the second: "auto", "cpu", "cuda:N".
        threads: CPU threads; None takes all cores.
        force: replace an output that was made from another graph.
        progress: told of every pass over the images.
        on_note: told of what the user should know of the graphs and images.

    Returns:
        The figures of every layer, the verdict, and the layers to keep.

    Raises:
        InputError: an option makes no sense, or a file can't be read.
        GraphError: a graph can't be used, carries no preprocessing or another than the other one.
        EngineMismatchError: an engine's typed graph isn't beside it, or it is for another GPU.
        UnsupportedError: a graph computes in BF16, or this machine can't run the engine.
        DataError: the data can't be used.
    """
    require("onnx", "Bisecting two graphs", "onnxruntime")
    require("onnxruntime", "Bisecting two graphs", "onnxruntime")
    from calibration.bisection.bisect import bisect_models
    from export.graph import load_graph
    from toolkit.building.judged import judged
    from toolkit.building.pictures import Pictures
    from toolkit.data import choose, open_dataset
    from toolkit.data.batches import check_counts

    tell = on_note or (lambda line: None)
    check_counts(images, batch_size, threads)
    here = _reference(fspath(first))
    name, asked = artifact_of(fspath(second))
    wrong = judged(Path(name), asked, device=device, threads=threads, progress=progress, on_note=tell)
    if wrong.backend is None and device not in {"auto", "cpu"}:
        raise InputError(
            f"ONNX Runtime computes '{second}' as written on the CPU, not on '{device}'",
            f"leave --device out, or name what runs it there: {second}@onnxruntime",
        )
    store = open_store()
    digest = store.digest(wrong.graph)
    if output is not None:
        check_replace(Path(output), digest, _made_from, force=force)
    models = [load_graph(here), load_graph(wrong.graph)]
    metadata = _metadata(here, models[0], wrong.graph, models[1])
    if metadata.pictures is None:
        raise UnsupportedError(
            f"bisecting feeds pictures, and {metadata.architecture} takes tensors",
            "`toolkit sensitivity` measures its layers on an .npz",
        )
    dataset = open_dataset(data, progress=progress)
    chosen = choose(dataset.train, images, seed)
    if len(chosen) < images:
        tell(f"the train split has {len(chosen)} images, fewer than the {images} asked for")
    batch_size, count = wrong.fit(batch_size, len(chosen))
    if count < len(chosen):
        tell(f"the engine takes {batch_size} images or more at once: {count} are measured on")
    chosen = chosen[:count]
    pictures = Pictures(dataset.train, chosen, metadata.preprocess, metadata.uint8_input, batch_size).held()
    result = bisect_models(
        models,
        pictures,
        (f"'{here}'", f"'{wrong.graph}'"),
        mend=mend,
        threads=threads,
        backend=wrong.backend,
        progress=progress,
    )
    if output is not None:
        record = {
            **result.to_json(),
            "graphs": [str(here), str(wrong.graph)],
            "judged": fspath(second),
            "digests": [store.digest(here), digest],
            "data": dataset.name,
            "split": "train",
            "seed": seed,
        }
        write_record(Path(output), record)
    return result


def _reference(given: str) -> Path:
    """The first graph's file."""
    name, backend = artifact_of(given)
    if backend != "auto":
        raise InputError(
            f"the first graph is the reference, which ONNX Runtime computes as written, not {backend}",
            f"give '{name}' first, and a graph with @{backend} second",
        )
    if (kind := kind_of(Path(name))) != "graph":
        raise GraphError(f"'{name}' is a {kind}, not an ONNX graph", "give the master graph first")
    return Path(name)


def _metadata(first: Path, here: "onnx.ModelProto", second: Path, there: "onnx.ModelProto") -> "ModelMetadata":
    """What travels with one of the graphs; both must prepare pictures alike."""
    from export.graph import read_metadata, require_metadata

    mine, theirs = read_metadata(here), read_metadata(there)
    if mine is not None and theirs is not None:
        same = mine.preprocess_digest == theirs.preprocess_digest and mine.uint8_input == theirs.uint8_input
        if not same:
            raise GraphError(
                f"'{first}' and '{second}' prepare pictures in two ways",
                "give two graphs of one network and preprocessing",
            )
    return require_metadata(mine or theirs, first)


def _made_from(path: Path) -> str | None:
    """The digest of the graph that an existing record is about."""
    value = json.loads(path.read_text(encoding="utf-8"))
    digests = value.get("digests") if isinstance(value, dict) else None
    return str(digests[-1]) if isinstance(digests, list) and digests else None
