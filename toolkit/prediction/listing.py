"""Which pictures are to be classified: files, folders, and lists of them."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from engines.files import unreadable
from toolkit.data.folder import count_pictures, existing_pictures

STDIN = "-"
"""In place of a list's name."""


def listed(pictures: Sequence[str | Path], files: str | Path | None = None) -> tuple[Iterator[Path], int | None]:
    """The pictures in a stable order, found while they are asked for.

    Args:
        pictures: files and folders.
        files: a list of more, one a line; "-" for what comes through stdin.

    Returns:
        The pictures, and how many they are; None where a list can be read only once.

    Raises:
        DataError: a folder holds no pictures or can't be read.
        InputError: the list can't be read.
    """
    given = [Path(picture) for picture in pictures]
    found, count = existing_pictures(given), count_pictures(given)
    if files is None:
        return found, count
    again = str(files) != STDIN and Path(files).is_file()
    total = count + count_pictures(_lines(files)) if again else None
    return chain(found, existing_pictures(_lines(files))), total


def _lines(files: str | Path) -> Iterator[Path]:
    try:
        if str(files) == STDIN:
            yield from _paths(sys.stdin.buffer)
        else:
            with Path(files).open("rb") as file:
                yield from _paths(file)
    except OSError as error:
        raise unreadable(Path(files), error) from error


def _paths(lines: Iterator[bytes]) -> Iterator[Path]:
    for line in lines:
        if name := line.rstrip(b"\r\n"):
            yield Path(os.fsdecode(name))
