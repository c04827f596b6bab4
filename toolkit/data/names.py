"""What splits and classes are called."""

from pathlib import Path

from engines.errors import DataError
from toolkit.data.dataset import MAX_CLASSES

TEST_NAMES = ("test", "val", "valid", "validation")
"""What the test split beside "train" is called; the first one found is taken."""


def read_names(path: Path) -> tuple[str, ...]:
    """The class names that a text file lists, one a line.

    Raises:
        DataError: it can't be read, is empty, or names a class twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise DataError(f"can't read the class names in '{path}': {error}", "write them as UTF-8 text") from error
    if not 0 < len(names) <= MAX_CLASSES:
        raise DataError(f"'{path}' names {len(names)} classes", "write one name a line")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise DataError(f"'{path}' names class '{twice}' twice", "give each class a name of its own")
    return names
