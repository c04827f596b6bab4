"""Read a file of ``torch.load`` without running code from it, and say what is wrong with one that can't be read."""

import pickle
import re
import zipfile
from pathlib import Path

import torch

from engines.errors import CheckpointError
from engines.files import unreadable

_RESAVE = "save it with torch.save(model.state_dict(), path)"
_AGAIN = "copy or download the file again"


def read_pickle(path: Path, *, trust: bool = False) -> object:
    """Load what ``torch.save`` wrote, onto the CPU.

    Args:
        path: the file; zip-based and legacy formats both.
        trust: when the file holds pickled Python objects, load them too, which runs code from the file.

    Raises:
        CheckpointError: it isn't such a file, is damaged, or needs ``trust``.
        InputError: it can't be opened.
    """
    _look(path)
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (names := _globals(path, error)):
            raise _damaged(path) from error
        if not trust:
            raise CheckpointError(
                f"'{path}' is a pickled object ({names}), and unpickling it can run any code",
                f"{_RESAVE}, or give --trust-pickle if you trust where the file comes from",
            ) from error
        return _read_trusted(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # damaged pickles make torch raise almost anything: RuntimeError, EOFError, KeyError, ...
        raise _damaged(path) from error
    return loaded


def _read_trusted(path: Path) -> object:
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=False)
    except MemoryError:
        raise
    except Exception as error:  # code from the file may raise anything
        raise CheckpointError(
            f"'{path}' can't be unpickled: {type(error).__name__}: {error}",
            f"put the module that defines its class on PYTHONPATH, or where it was trained {_RESAVE}",
        ) from error
    return loaded


def _look(path: Path) -> None:
    """Refuse by their first bytes files that are evidently something else, which torch reports cryptically."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise unreadable(path, error) from error
    if not head:
        raise CheckpointError(f"'{path}' is empty (0 bytes)", _AGAIN)
    if found := _something_else(head):
        raise CheckpointError(f"'{path}' is {found[0]}, not a PyTorch checkpoint", found[1])
    if head.startswith(b"PK"):
        _look_into_zip(path)


def _look_into_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"'{path}' is a truncated or damaged checkpoint", _AGAIN) from error
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" not in inner:
        raise CheckpointError(
            f"'{path}' is a zip archive, not a PyTorch checkpoint", "unpack it and give the checkpoint that it holds"
        )


def _something_else(head: bytes) -> tuple[str, str] | None:
    text = head.lstrip().lower()
    signs = (
        (
            text.startswith((b"<!doctype", b"<html", b"<?xml")),
            "a web page",
            "the download failed: open its address in a browser, then download the file itself",
        ),
        (
            text.startswith(b"version https://git-lfs"),
            "a Git LFS pointer",
            "run `git lfs pull` to fetch the file itself",
        ),
        (text.startswith(b"{"), "JSON text", "give the .pt file itself"),
        (head.startswith(b"\x1f\x8b"), "a gzip archive", "unpack it and give the checkpoint that it holds"),
        (head.startswith((b"ftrt", b"vtrt")), "a TensorRT engine", "give the .pt file that it was built from"),
        (
            head.startswith(b"\x08") and b"pytorch" in head[:32],
            "an ONNX graph",
            "give the .pt file that it was exported from",
        ),
    )
    return next(((what, remedy) for hit, what, remedy in signs if hit), None)


def _globals(path: Path, error: Exception) -> str:
    """The classes and functions that a refused pickle asks for; "" when it was refused as damaged."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the legacy format, or damage
        names = []
    names = names or re.findall(r"GLOBAL ([\w.]+)", str(error))
    # A whole module lists dozens of torch's own classes: the one that torch doesn't know tells the reader most.
    names.sort(key=lambda name: name.startswith(("torch.", "collections.", "builtins.", "numpy")))
    return names[0] if names else ""


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is not a PyTorch checkpoint, or is truncated or damaged", f"{_AGAIN}, or {_RESAVE}"
    )
