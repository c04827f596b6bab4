"""A model's folder, put into a repository whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from engines.errors import InputError

Content = Path | str
"""A file to link or copy, or a text to write."""


def put_folder(folder: Path, contents: Mapping[str, Content], *, replace: bool) -> None:
    """Make ``folder`` with these files in it; the repository above it is made where it is missing.

    The files are gathered elsewhere and come with one rename: a server that polls the repository never meets a
    part. Large files are hard links where the file system allows, else copies; a linked engine stays as it is when
    the original is built again, because builds replace files and don't write into them.

    Args:
        folder: the model's folder.
        contents: by name inside the folder, with "/" for folders in it.
        replace: put it in the place of the folder that is there.

    Raises:
        InputError: something can't be read or written; nothing is left behind.
    """
    repository = folder.parent
    made = _make(repository)
    staging = None
    try:
        staging = _staging(repository, folder.name)
        new = staging / "new"
        new.mkdir()
        for name, content in contents.items():
            _put(new / name, content)
        for path in (new, *(path for path in new.rglob("*") if path.is_dir())):
            _sync(path)
        _exchange(new, folder, staging / "old", replace=replace)
        _sync(repository)
        made = False
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"can't write '{folder}': {reason}",
            "check that the folder is writable and has free space, or give another",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                repository.rmdir()


def _make(repository: Path) -> bool:
    """Make the repository; whether it was missing."""
    if repository.is_dir():
        return False
    try:
        repository.mkdir()
    except FileNotFoundError as error:
        raise InputError(f"the folder '{repository.parent}' does not exist", "make it, or give another") from error
    except FileExistsError as error:
        raise InputError(f"'{repository}' is a file, not a repository", "give a folder") from error
    except OSError as error:
        raise InputError(f"can't make '{repository}': {error.strerror or error}", "give another folder") from error
    return True


def _staging(repository: Path, name: str) -> Path:
    """A new folder on the same file system, outside the repository if it can be: a server may look at all in it."""
    outside = repository.absolute().parent
    if outside.stat().st_dev == repository.stat().st_dev and os.access(outside, os.W_OK | os.X_OK):
        return Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=outside))
    return Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=repository))


def _put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="\n")
    else:
        try:
            os.link(content.resolve(), path)
        except OSError:  # another file system, or one without links
            shutil.copyfile(content, path)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, folder: Path, old: Path, *, replace: bool) -> None:
    if replace and folder.exists():
        try:
            folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    else:
        new.rename(folder)
