"""Classify picture files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.errors import DataError
from toolkit.data.folder import existing_pictures
from toolkit.loading import load
from toolkit.runtime.predictor import Prediction


def predict(
    model: str | Path,
    pictures: Sequence[str | Path],
    *,
    top: int = 5,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
) -> Iterator[tuple[Path, Prediction | DataError]]:
    """Classify picture files, and those in and below folders, in order and in bounded memory.

    Args:
        model: a checkpoint, graph or engine.
        pictures: files and folders.
        top: how many classes each answer holds.
        device: "cpu", "cuda:0", or "auto".
        backend: what runs it ("openvino" for a graph), or "auto": by the file.
        threads: CPU threads of the backend.
        trust_pickle: allow a checkpoint that is a pickled module, which runs code when it is loaded.

    Yields:
        Each file with its prediction, or with the error that names what is wrong with it.

    Raises:
        InputError: the model can't be loaded, or a folder holds no pictures.
        UnsupportedError: a library is missing, or this machine can't run the model.
    """
    files = existing_pictures(Path(picture) for picture in pictures)
    with load(model, device=device, backend=backend, threads=threads, trust_pickle=trust_pickle) as predictor:
        yield from zip(files, predictor.answers(files, top), strict=True)
