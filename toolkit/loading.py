"""From a file to what runs it: any checkpoint, graph or engine."""

import logging
from collections.abc import Sequence
from pathlib import Path

from engines.errors import InputError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.sessions.base import Session
from toolkit.artifacts import kind_of
from toolkit.runtime.predictor import Predictor

_OF_CHECKPOINTS = {"auto": "torch", "torch": "torch", "torch-compile": "torch-compile"}
"""Backends that run a checkpoint: what was asked for → its session's key."""

_LOG = logging.getLogger(__name__)
_TOLD: set[tuple[str, str]] = set()
"""What was said of which file: several sessions of one file say it once."""


def load(
    path: str | Path,
    *,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    spin: str | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """Load a checkpoint, graph or engine and its preprocessing.

    Args:
        path: ``.pt`` or what else holds a checkpoint (safetensors, ``.pt2``, TorchScript), ``.onnx`` or ``.engine``.
        device: "cpu", "cuda:0", "openvino:GPU", or "auto": what the backend finds.
        backend: "onnxruntime", "onnxruntime-tensorrt", "openvino", "torch", "torch-compile", "tensorrt",
            "tensorrt-rtx", or "auto": by the file, which is "onnxruntime" for a graph and "torch" for a checkpoint.
        threads: CPU threads of the backend, where it computes on the CPU; None leaves its default.
        spin: when ONNX Runtime's CPU threads wait for work at full speed: "always" (its default) makes runs in a row
            a little faster, "running" leaves the cores to others between runs, "never" within them too, as a server
            wants it. Other backends leave no such choice.
        trust_pickle: allow a checkpoint that is a pickled module, which runs code when it is loaded.
        model: the code that makes the network of a checkpoint that holds weights alone, as for ``toolkit.export``;
            it is run. Labels and preprocessing of one that has none are those of the graph beside it
            (``model.onnx`` beside ``model.pt``), where that was exported from it.
        preprocess: how images become the input of a file that doesn't say so itself (a plan without its
            passport, a foreign graph); it overrides one that does.
        labels: the names of its classes, likewise; without any they are called by their index.
        batch_size: images a run; None takes the engine's largest, or 32 where nothing bounds it.

    Returns:
        A predictor that owns its session: close it, or use it in a ``with`` statement.

    Raises:
        InputError: the file is damaged, no such artifact, or carries no preprocessing.
        UnsupportedError: a library is missing, or this machine can't run it.
    """
    session = open_artifact(
        path, device=device, backend=backend, threads=threads, spin=spin, trust_pickle=trust_pickle, model=model
    )
    try:
        return Predictor(session, preprocess=preprocess, labels=labels, batch_size=batch_size)
    except BaseException:
        session.close()
        raise


def told() -> tuple[str, ...]:
    """What was said so far of the checkpoints that this process has opened, a line each."""
    return tuple(sorted(note for _, note in _TOLD))


def open_artifact(
    path: str | Path,
    *,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    spin: str | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
) -> Session:
    """The session that serves ``path``; the arguments and errors are those of :func:`load`."""
    path = Path(path)
    kind = kind_of(path)
    if kind in {"table", "passport"}:
        named = "calibration table" if kind == "table" else "passport"
        engine = path.with_suffix("")
        remedy = f"give the engine: {engine}" if engine.is_file() else "give a checkpoint, graph or engine"
        raise InputError(f"'{path}' is a {named}, which doesn't run", remedy)
    if kind != "checkpoint":
        from engines.sessions import open_session

        return open_session(path, backend=backend, device=device, threads=threads, spin=spin)
    if backend not in _OF_CHECKPOINTS:
        raise InputError(
            f"backend '{backend}' doesn't run the checkpoint '{path}'",
            "use --backend torch or torch-compile, or export it first with `toolkit export`",
        )
    from engines.sessions.opening import backend_class
    from export.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, trust_pickle=trust_pickle, model=model, known=metadata_beside(path))
    for note in checkpoint.notes:
        if (str(path), note) not in _TOLD:
            _TOLD.add((str(path), note))
            _LOG.warning("'%s': %s", path, note)
    session: Session = backend_class(_OF_CHECKPOINTS[backend])(
        checkpoint.module, checkpoint.metadata, device, threads=threads
    )
    return session


def metadata_beside(path: Path) -> ModelMetadata | None:
    """The metadata of the graph that ``toolkit export`` writes beside a checkpoint; None where there is none."""
    graph = path.with_name(path.name.removesuffix(path.suffix) + ".onnx")
    if not graph.is_file():
        return None
    from export.graph import peek_metadata

    try:
        return peek_metadata(graph)
    except InputError:  # it is none that this toolkit wrote, and nobody asked for it
        return None
