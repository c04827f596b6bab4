"""Classify picture files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from engines.errors import DataError
from engines.progress import QUIET, Progress
from toolkit.loading import load
from toolkit.prediction.cluster import Cluster
from toolkit.prediction.listing import listed
from toolkit.prediction.ray_data import Model, rows_on
from toolkit.prediction.stream import (
    Written,
    answered,
    check_output,
    identity_of,
    rows_of_predictor,
    write_predictions,
)
from toolkit.runtime.head import check_top
from toolkit.runtime.prediction import Prediction


def predict(
    model: str | Path,
    pictures: Sequence[str | Path],
    *,
    files: str | Path | None = None,
    top: int = 5,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    trust_pickle: bool = False,
    code: str | None = None,
) -> Iterator[tuple[Path, Prediction | DataError]]:
    """Classify picture files, and those in and below folders, in order and in bounded memory.

    Args:
        model: a checkpoint, graph or engine.
        pictures: files and folders.
        files: a file that lists more of them, one a line; "-" for what comes through stdin.
        top: how many classes each answer holds.
        device: "cpu", "cuda:0", or "auto".
        backend: what runs it ("openvino" for a graph, "torch-compile" for a checkpoint), or "auto": by the file.
        threads: CPU threads of the backend.
        batch_size: pictures a run of the engine; None for its largest, or 32 where nothing bounds it.
        trust_pickle: allow a checkpoint that is a pickled module, which runs code when it is loaded.
        code: what makes the network of a checkpoint that holds weights alone: ``--model`` of the command.

    Yields:
        Each file with its prediction, or with the error that names what is wrong with it.

    Raises:
        InputError: the model can't be loaded, or a folder holds no pictures.
        UnsupportedError: a library is missing, or this machine can't run the model.
    """
    check_top(top)
    found, _ = listed(pictures, files)
    with load(
        model,
        device=device,
        backend=backend,
        threads=threads,
        trust_pickle=trust_pickle,
        model=code,
        batch_size=batch_size,
    ) as predictor:
        yield from answered(predictor, found, top)


def predict_to(
    output: str | Path,
    model: str | Path,
    pictures: Sequence[str | Path],
    *,
    files: str | Path | None = None,
    top: int = 5,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    trust_pickle: bool = False,
    code: str | None = None,
    cluster: Cluster | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> Written:
    """Classify any number of picture files into a file, from where an earlier run stopped.

    The arguments of :func:`predict`, and

    Args:
        output: ``*.csv``, ``*.jsonl`` or ``*.parquet``; ``output.partial`` beside it keeps what is done.
        cluster: spread the pictures over a Ray cluster.
        force: replace an output that exists.
        progress: told of every batch.

    Raises:
        InputError: the model can't be loaded, a folder holds no pictures, the output can't be written, or what was
            begun is of another model or other pictures.
        UnsupportedError: a library is missing, or this machine can't run the model.
    """
    check_top(top)
    output = Path(output)
    check_output(output, force=force)
    found, total = listed(pictures, files)
    names = (os.fspath(path) for path in found)
    with ExitStack() as stack:
        if cluster is not None:
            what = Model(str(model), top, device, backend, threads, batch_size, trust_pickle, code, str(Path.cwd()))
            identity, rows_of = stack.enter_context(rows_on(cluster, what))
        else:
            predictor = stack.enter_context(
                load(
                    model,
                    device=device,
                    backend=backend,
                    threads=threads,
                    trust_pickle=trust_pickle,
                    model=code,
                    batch_size=batch_size,
                )
            )
            identity, rows_of = identity_of(model, predictor, top), rows_of_predictor(predictor, top)
        return write_predictions(names, output, identity, rows_of, total=total, progress=progress)
