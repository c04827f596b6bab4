"""Files that are never half-written, and digests of what is in them."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engines.errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error.

    The data is flushed to disk before the rename, so that a crash, a full disk or Ctrl-C
    leaves the old file or none, never a part of the new one.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | bytearray | memoryview | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"can't write '{path}': {reason}",
        "check that the folder exists, is writable and has free space, or choose another with --output",
    )


def digest_bytes(*parts: bytes | bytearray | memoryview) -> str:
    """``sha256:<hex>`` of the concatenated ``parts``."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def digest_file(path: Path) -> str:
    """``sha256:<hex>`` of the file's content, read in fixed memory.

    Raises:
        InputError: the file can't be read.
    """
    require_file(path)
    try:
        with Path(path).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise unreadable(path, error) from error


def read_text(path: Path) -> str:
    """The file's content as text.

    Raises:
        InputError: the file can't be read.
        UnicodeDecodeError: it isn't UTF-8.
    """
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise unreadable(path, error) from error


def require_file(path: Path) -> None:
    """Refuse what isn't a file: opening a pipe would wait for somebody to write into it, a device has no end.

    Raises:
        InputError: it is something else, or doesn't exist.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"'{path}' is a folder, not a file", "give the path of a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"'{path}' is a pipe or a device, not a file", "give the path of a file")


def read_start(path: Path, count: int) -> bytes:
    """The first ``count`` bytes of a file, or all of a shorter one.

    Raises:
        InputError: it can't be read, or is no file.
    """
    require_file(path)
    try:
        with Path(path).open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that can't be opened or read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"'{path}' does not exist", "check the path")
    if isinstance(error, IsADirectoryError):
        return InputError(f"'{path}' is a folder, not a file", "give the path of a file")
    return InputError(f"can't read '{path}': {error.strerror or error}", "check the path and its permissions")
