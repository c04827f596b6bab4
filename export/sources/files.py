"""Which of the ways in which people keep a network a file is."""

import zipfile
from pathlib import Path
from typing import Literal

from engines.files import unreadable
from export.sources.pt2 import is_archive
from export.sources.safetensors import is_index, is_safetensors

Kind = Literal["pickle", "program", "script", "safetensors"]


def kind_of_file(path: Path) -> Kind:
    """What a file is by its first bytes and, where it is a zip file, its entries; a damaged one by its name.

    Raises:
        InputError: it can't be opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise unreadable(path, error) from error
    if is_index(path) or (head and is_safetensors(path, head)):
        return "safetensors"
    suffix = path.suffix.lower()
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        if head and suffix == ".pt2":
            return "program"
        return "script" if head and suffix in {".ts", ".torchscript"} else "pickle"
    if is_archive(names):
        return "program"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "script"
    return "pickle"
