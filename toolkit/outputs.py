"""Where results go, and when an existing file may be replaced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.errors import InputError, ToolkitError
from engines.files import write_atomically


def sibling(source: Path, suffix: str) -> Path:
    """The path beside ``source`` with its last suffix replaced: ``model.onnx`` → ``model.fp16.onnx``."""
    return source.with_name(source.name.removesuffix(source.suffix) + suffix)


def check_replace(
    path: Path, source: str | None, origin_of: Callable[[Path], str | None], *, force: bool, option: str = "--output"
) -> None:
    """Refuse to replace a file that was made from something else.

    Args:
        path: the output that is about to be written.
        source: the digest of what the new output is made from.
        origin_of: reads the same digest out of an existing output; None when it carries none.
        force: replace it whatever it is.
        option: what chooses ``path``, for the remedy.

    Raises:
        InputError: ``path`` exists, wasn't derived from ``source``, and ``force`` is not given.
    """
    if not path.parent.is_dir():
        raise InputError(f"the folder '{path.parent}' does not exist", f"make it, or choose another {option}")
    if path.is_dir():
        raise InputError(f"'{path}' is a folder", f"choose another {option}")
    if force or not path.exists():
        return
    try:
        existing = origin_of(path)
    except (ToolkitError, json.JSONDecodeError, UnicodeDecodeError):
        existing = None
    if existing is None or existing != source:
        raise InputError(
            f"'{path}' exists and was not made from this source", f"give --force to replace it, or another {option}"
        )


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all.

    Raises:
        InputError: the file can't be written.
    """
    write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
