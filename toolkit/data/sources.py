"""From what follows ``--data`` to a data set."""

from dataclasses import replace
from os import PathLike
from pathlib import Path

from engines.errors import DataError, InputError
from engines.progress import QUIET, Progress
from toolkit.data.dataset import Dataset

KINDS = "'digits', an image folder (one folder a class), a folder of IDX files, or an .npz"


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
            IDX files; an ``.npz``. A data set that is open already is given back.
        seed: of the split, where the source has none. Every step must open the data with the same
            one, or the test images of one are the training images of another: keep 0 unless all change.
        channels: what the preprocessing is hinted to use instead of the data's own, 1 or 3.
        progress: told of the check of an image folder.

    Raises:
        DataError: it doesn't exist, is empty, damaged or none of these.
        InputError: ``channels`` is neither 1 nor 3.
        MissingLibraryError: scikit-learn (digits) or Pillow (pictures) is not installed.
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
    path = Path(source)
    if not path.exists():
        raise DataError(f"data set '{source}' does not exist", f"give {KINDS}")
    try:
        if path.is_dir():
            from toolkit.data.folder import open_folder
            from toolkit.data.idx import has_idx_files, open_idx

            return (
                open_idx(path, seed=seed) if has_idx_files(path) else open_folder(path, seed=seed, progress=progress)
            )
    except OSError as error:
        raise DataError(
            f"can't read '{error.filename or path}': {error.strerror}", "check its permissions"
        ) from error
    if path.suffix == ".npz":
        from toolkit.data.npz import open_npz

        return open_npz(path, seed=seed)
    raise DataError(f"'{path}' is not a data set", f"give {KINDS}")
