"""Weights in safetensors files: no code in them, and a header that may hold notes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from engines.files import unreadable
from engines.optional import require
from export.state_dicts import State

MAX_HEADER = 100 << 20
"""The largest header that the format allows, in bytes."""

_AGAIN = "copy or download the file again"


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file is one by its name, or by its first bytes: a header's length, then JSON."""
    named = path.suffix.lower() == ".safetensors"
    return named or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER)


def is_index(path: Path) -> bool:
    """Whether a file is the index of weights in several files, by its name."""
    return path.name.endswith((".safetensors.index.json", ".bin.index.json"))


def read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """The tensors, on the CPU, and the notes in the header.

    Args:
        path: a file, or the index (``….safetensors.index.json``) of several in its folder.

    Raises:
        CheckpointError: it is damaged or cut off.
        InputError: it can't be opened.
    """
    if is_index(path):
        return _shards(path)
    library: Any = require("safetensors", "Reading safetensors", "export")
    try:
        with library.safe_open(str(path), framework="pt", device="cpu") as file:
            notes = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError, and what torch says of an unknown type
        raise CheckpointError(f"'{path}' is a damaged or truncated safetensors file: {error}", _AGAIN) from error
    if not state:
        raise CheckpointError(f"'{path}' holds no tensors", "give the file of the weights")
    return state, notes


def _shards(path: Path) -> tuple[State, dict[str, str]]:
    try:
        index = json.loads(path.read_bytes())
        places = {str(key): str(file) for key, file in index["weight_map"].items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is no index of weights: {error}", _AGAIN) from error
    state: State = {}
    notes: dict[str, str] = {}
    for file in dict.fromkeys(places.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"'{path}' names '{file}', no safetensors file in its folder", "give an index of safetensors files"
            )
        if not (path.parent / file).is_file():
            raise CheckpointError(f"'{path}' names '{file}', which is missing", "put all the files in one folder")
        tensors, said = read_safetensors(path.parent / file)
        state |= {key: tensor for key, tensor in tensors.items() if places.get(key) == file}
        notes |= said
    if lost := [key for key in places if key not in state]:
        raise CheckpointError(f"'{path}' names {lost[0]}, which is not in '{places[lost[0]]}'", _AGAIN)
    return state, notes


def header_notes(path: Path) -> Mapping[str, str]:
    """The notes in a file's header, without its tensors; empty where there are none or it is no such file."""
    if is_index(path):
        return {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length < MAX_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
