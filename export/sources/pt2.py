"""``torch.export`` archives: programs and weights, without the network's Python code.

PyTorch's own reader unpickles, evaluates and loads native code where an archive asks for it. So the archive is
looked through first, and refused without ``--trust-pickle`` when it holds

1. compiled code (AOTInductor), which nothing here runs in any case,
2. pickled objects other than what ``torch.load(weights_only=True)`` reads,
3. operators that aren't PyTorch's own, expressions that aren't arithmetic of sizes, or names that aren't names.
"""

import contextlib
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from engines.files import unreadable
from export.sources.code import said
from export.sources.programs import Program, plain

_AGAIN = "copy the file again, or write it again with torch.export.save(program, path)"
_TARGET = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|(_operator|math)\.\w+|torch\.sym_\w+|torch\._sym_\w+")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_CALLS = frozenset(
    "Abs Add And CeilDiv CeilToInt CleanDiv Eq Equality Float FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt "  # noqa: SIM905
    "Identity IntTrueDiv Integer Le LessThan Lt Max Min Mod ModularIndexing Mul Ne Not Or Piecewise Pow PowByNatural "
    "PythonMod Rational RoundToInt StrictGreaterThan StrictLessThan ToFloat TruncToInt Unequality Where ceiling "
    "floor".split()
)
_UNNAMED = frozenset({"metadata", "guards_code", "in_spec", "out_spec", "as_string", "as_strings", "expr_str"})
"""Keys whose strings are no names: notes, descriptions of structures, and arguments that stay text."""


def is_archive(names: list[str]) -> bool:
    """Whether a zip file's entries are those of ``torch.export.save``."""
    inner = {name.partition("/")[2] for name in names} | set(names)
    return "archive_format" in inner or any(
        name == "serialized_exported_program.json" or re.fullmatch(r"models/[^/]+\.json", name) for name in inner
    )


def load_program(path: Path, *, trust: bool = False) -> Program:
    """Load an archive.

    Args:
        path: what ``torch.export.save`` wrote.
        trust: load what else it holds too, which may run code from the file.

    Raises:
        CheckpointError: it is damaged, of another PyTorch, holds code, or its network can't be used.
        InputError: it can't be opened.
    """
    _look(path, trust=trust)
    try:
        with quiet():
            program = torch.export.load(str(path))
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # the reader raises almost anything: KeyError, AssertionError, SerializeError, ...
        if "CUDA" in str(error) or "cuda" in str(error):
            raise CheckpointError(
                f"'{path}' was exported on a GPU, and this PyTorch has none: {said(error)}",
                "move it before saving: torch.export.passes.move_to_device_pass(program, 'cpu')",
            ) from error
        raise CheckpointError(
            f"'{path}' can't be loaded by PyTorch {torch.__version__}: {said(error)}", _AGAIN
        ) from error
    with quiet():
        return plain(program, str(path), title=_title(program, path))


def _title(program: torch.export.ExportedProgram, path: Path) -> str:
    """The class of the network that was exported, as its nodes say."""
    for node in program.graph.nodes:
        for entry in (node.meta.get("nn_module_stack") or {}).values():
            if isinstance(entry, tuple) and entry[0] == "" and str(entry[1]).rpartition(".")[2].isidentifier():
                return str(entry[1]).rpartition(".")[2]
    return path.name.partition(".")[0]


def _look(path: Path, *, trust: bool) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name: name.partition("/")[2] for name in archive.namelist()}
            if any(inner.startswith("data/aotinductor/") for inner in names.values()):
                raise CheckpointError(
                    f"'{path}' is a package of compiled code (AOTInductor)", "give the program: torch.export.save"
                )
            problem = None if trust else _problem(archive, names)
    except OSError as error:
        raise unreadable(path, error) from error
    except (
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise CheckpointError(f"'{path}' is a truncated or damaged archive of torch.export", _AGAIN) from error
    if problem:
        raise CheckpointError(
            f"'{path}' holds {problem}, and loading that can run any code",
            "export it without, or give --trust-pickle if you trust where the file comes from",
        )


def _problem(archive: zipfile.ZipFile, names: dict[str, str]) -> str | None:
    for name, inner in names.items():
        last = inner.rpartition("/")[2] or name
        if "/" not in inner and last in {"byteorder", "version", "archive_format", "archive_version"}:
            continue
        if last.startswith(("custom_obj_", "opaque_obj_")):
            return f"a pickled object ({last})"
        if last.endswith(".pt") and (found := _pickled(archive.read(name))):
            return f"a pickled object ({found})"
        if last.endswith(".json"):
            value = json.loads(archive.read(name))
            configured = value.get("config", {}) if isinstance(value, dict) else {}
            for entry in configured.values() if isinstance(configured, dict) else ():
                if entry.get("use_pickle"):
                    where = "weights" if "weights" in inner else "constants"
                    found = _pickled(archive.read(_beside(name, str(entry["path_name"]))))
                    if found:
                        return f"a pickled object among its {where} ({found})"
            if odd := next(_odd(value), None):
                return odd
    return None


def _beside(name: str, other: str) -> str:
    return f"{name.rpartition('/')[0]}/{other}"


def _pickled(data: bytes) -> str | None:
    """What a pickle asks for beyond tensors and containers; None for nothing."""
    if not data:
        return None
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # refused, or damaged
        return said(error)[:80]
    return None


def _odd(value: Any) -> Iterator[str]:
    """What in a program's JSON is neither PyTorch's operator, arithmetic of sizes nor a name."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if isinstance(item, dict):
            for name, inner in item.items():
                if any(sign in str(name) for sign in "\"'\\\n"):
                    yield f"the name {name!r}"
                if name == "expr_str" and not _arithmetic(str(inner)):
                    yield f"the expression {inner!r}"
                if name not in _UNNAMED:
                    stack.append((name, inner))
        elif isinstance(item, list):
            stack += [(key, inner) for inner in item]
        elif isinstance(item, str):
            if key == "target" and "." in item and item.startswith(("torch", "_operator", "math", "#")):
                if not _TARGET.fullmatch(item):
                    yield f"the operator {item!r}"
            elif any(sign in item for sign in "\"'\\\n"):
                yield f"the name {item!r}"


def _arithmetic(text: str) -> bool:
    """Whether an expression is made of symbols, numbers and known functions alone."""
    bare = _SYMBOL.sub("s", text)
    if re.search(r"[^\w\s+\-*/(),.=<>!%&|~]|__|\.\s*[A-Za-z_]", bare):
        return False
    return all(name in _CALLS for name in re.findall(r"([A-Za-z_]\w*)\s*\(", bare))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's remarks on formats and guards off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
