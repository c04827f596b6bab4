"""From what follows ``--data`` to a data set."""

from dataclasses import replace
from os import PathLike
from pathlib import Path

from engines.errors import DataError, InputError
from engines.progress import QUIET, Progress
from toolkit.data.dataset import Dataset
from toolkit.kinds import KINDS


def open_dataset(
    source: "str | PathLike[str] | Dataset",
    *,
    seed: int = 0,
    channels: int | None = None,
    progress: Progress = QUIET,
) -> Dataset:
    """Open a data set.

    Args:
        source: "digits" for the embedded set (a folder of that name is "./digits", or any path object); an image
            folder ``root/class/*.jpg``, also with ``train/`` and ``test/`` or ``val/`` below the root; a folder of
            IDX files; CIFAR's published folder or archive; an ``.npz``; WebDataset's tars, as a folder, a pattern or
            one file; "hf:" and the name or folder of a Hugging Face data set, or a folder that its ``save_to_disk``
            wrote. A data set that is open already is given back.
        seed: of the split, where the source has none. Every step must open the data with the same
            one, or the test images of one are the training images of another: keep 0 unless all change.
        channels: what the preprocessing is hinted to use instead of the data's own, 1 or 3.
        progress: told of the check of an image folder and of reading the index of shards.

    Raises:
        DataError: it doesn't exist, is empty, damaged or none of these.
        InputError: ``channels`` is neither 1 nor 3.
        MissingLibraryError: scikit-learn (digits), Pillow (pictures) or datasets (hf:) is not installed.
    """
    if channels not in {None, 1, 3}:
        raise InputError(f"{channels} channels", "choose 1 (grey) or 3 (RGB)")
    dataset = source if isinstance(source, Dataset) else _open(source, seed, progress)
    if channels is None:
        return dataset
    return replace(dataset, preprocess_hint=replace(dataset.preprocess_hint, channels=channels))


def _open(source: str | PathLike[str], seed: int, progress: Progress) -> Dataset:
    if source == "digits":
        from toolkit.data.digits import open_digits

        return open_digits(seed=seed)
    if isinstance(source, str) and source.startswith("hf:"):
        from toolkit.data.huggingface import open_huggingface

        return open_huggingface(source.removeprefix("hf:"), seed=seed)
    path = Path(source)
    try:
        if path.is_dir():
            return _open_folder(path, seed, progress)
        opened = _open_archive(path, seed, progress)
    except OSError as error:
        raise DataError(
            f"can't read '{error.filename or path}': {error.strerror}", "check its permissions"
        ) from error
    if opened is not None:
        return opened
    if not path.exists():
        raise DataError(f"data set '{source}' does not exist", f"give {KINDS}")
    raise DataError(f"'{path}' is not a data set", f"give {KINDS}")


def _open_folder(path: Path, seed: int, progress: Progress) -> Dataset:
    from toolkit.data.cifar import find_cifar, open_cifar
    from toolkit.data.folder import open_folder
    from toolkit.data.huggingface import is_saved_dataset, open_huggingface
    from toolkit.data.idx import has_idx_files, open_idx
    from toolkit.data.webdataset import is_webdataset, open_webdataset

    if has_idx_files(path):
        return open_idx(path, seed=seed)
    if cifar := find_cifar(path):
        return open_cifar(cifar)
    if is_saved_dataset(path):
        return open_huggingface(str(path), seed=seed)
    if is_webdataset(path):
        return open_webdataset(path, seed=seed, progress=progress)
    return open_folder(path, seed=seed, progress=progress)


def _open_archive(path: Path, seed: int, progress: Progress) -> Dataset | None:
    """The data set in a file, or in the files that a pattern names; None for any other."""
    from toolkit.data.cifar import is_cifar_archive, open_cifar
    from toolkit.data.webdataset import is_webdataset, open_webdataset

    if path.name.lower().endswith((".tar", ".tar.gz", ".tgz")) and path.is_file() and is_cifar_archive(path):
        return open_cifar(path)
    if is_webdataset(path):
        return open_webdataset(path, seed=seed, progress=progress)
    if path.suffix == ".npz" and path.exists():
        from toolkit.data.npz import open_npz

        return open_npz(path, seed=seed)
    return None
