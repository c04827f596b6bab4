"""Find where two graphs of one network part."""

import json
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import GraphError, InputError
from engines.files import digest_file, write_atomically
from engines.optional import require
from engines.progress import QUIET, Progress
from toolkit.artifacts import kind_of
from toolkit.outputs import check_replace

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
    threads: int | None = None,
    force: bool = False,
    progress: Progress = QUIET,
    on_note: Callable[[str], None] | None = None,
) -> "Bisection":
    """Find the first layer of a graph whose own error is over what its types must cost, and what mends it.

    The images are of the train split: which layers to keep is a choice, and the test split stays unseen by choices.

    Args:
        first: the reference: mostly the FP32 master graph.
        second: the graph to judge: a typed graph, or another export of the network.
        data: a data set, or what ``toolkit.data.open_dataset`` takes.
        images: how many; fewer where the split has no more.
        seed: of their choice.
        mend: whether to look for the layers to keep wide.
        output: a JSON file to write; None writes none.
        batch_size: images a run; memory grows with it.
        threads: CPU threads; None takes all cores.
        force: replace an output that was made from another graph.
        progress: told of every pass over the images.
        on_note: told of what the user should know of the graphs and images.

    Returns:
        The figures of every layer, the verdict, and the layers to keep.

    Raises:
        InputError: an option makes no sense, or a file can't be read.
        GraphError: a graph can't be used, is an engine, carries no preprocessing or another than the other one.
        UnsupportedError: a graph computes in BF16.
        DataError: the data can't be used.
    """
    require("onnx", "Bisecting two graphs", "onnxruntime")
    require("onnxruntime", "Bisecting two graphs", "onnxruntime")
    from calibration.bisection.bisect import bisect as find
    from export.graph import load_graph
    from toolkit.building.pictures import Pictures
    from toolkit.data import choose, open_dataset
    from toolkit.data.dataset import Dataset

    if images < 1 or batch_size < 1 or (threads is not None and threads < 1):
        raise InputError(
            f"{images} images in batches of {batch_size} on {threads or 'all'} threads", "give 1 or more of each"
        )
    here, there = Path(first), Path(second)
    for path in (here, there):
        if (kind := kind_of(path)) != "graph":
            raise GraphError(
                f"'{path}' is a {kind}, not an ONNX graph",
                "give the typed graph that the engine was built from" if kind == "plan" else "give an ONNX graph",
            )
    digest = digest_file(there)
    if output is not None:
        check_replace(Path(output), digest, _made_from, force=force)
    metadata = _metadata(here, load_graph(here), there, load_graph(there))
    dataset = data if isinstance(data, Dataset) else open_dataset(fspath(data), progress=progress)
    chosen = choose(dataset.train, images, seed)
    if len(chosen) < images and on_note is not None:
        on_note(f"the train split has {len(chosen)} images, fewer than the {images} asked for")
    pictures = Pictures(dataset.train, chosen, metadata.preprocess, metadata.uint8_input, batch_size).held()
    result = find(here, there, pictures, mend=mend, threads=threads, progress=progress)
    if output is not None:
        record = {
            **result.to_json(),
            "graphs": [str(here), str(there)],
            "digests": [digest_file(here), digest],
            "data": dataset.name,
            "split": "train",
            "seed": seed,
        }
        write_atomically(Path(output), json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return result


def _metadata(first: Path, here: "onnx.ModelProto", second: Path, there: "onnx.ModelProto") -> "ModelMetadata":
    """What travels with one of the graphs; both must prepare pictures alike."""
    from export.graph import read_metadata, require_metadata

    mine, theirs = read_metadata(here), read_metadata(there)
    if mine is not None and theirs is not None:
        same = mine.preprocess.digest() == theirs.preprocess.digest() and mine.uint8_input == theirs.uint8_input
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
