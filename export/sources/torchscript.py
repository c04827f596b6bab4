"""TorchScript archives, traced or scripted: converted to a program that is traced and exported like any network.

PyTorch's converter (``torch._export.converter.TS2EPConverter``) makes the program; what it gives is held against
the archive itself at two batch sizes. Loading one runs no Python of it: its operators run when it is run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from engines.files import unreadable
from engines.tensors import TensorSpec
from export.signature import example, run_once
from export.sources.code import said
from export.sources.programs import Program, plain, same_answers
from export.sources.pt2 import quiet

_AGAIN = "copy the file again, or write it again with torch.jit.save(module, path)"
_PYTHON = "export the Python network instead: save its state dict and give --model FILE.py:CLASS"


def load_script(path: Path) -> nn.Module:
    """Load an archive of ``torch.jit.save`` onto the CPU, in eval mode.

    Raises:
        CheckpointError: it is damaged, or needs operators that aren't PyTorch's own.
        InputError: it can't be opened.
    """
    try:
        with quiet():
            module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            module.eval()
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # RuntimeError for all of it: damage, unknown operators, a frozen module's missing mode
        if "Unknown builtin op" in str(error) or "has not been registered" in str(error):
            raise CheckpointError(
                f"'{path}' needs an operator that isn't PyTorch's: {said(error)}", _PYTHON
            ) from error
        raise CheckpointError(f"'{path}' is a truncated or damaged TorchScript archive", _AGAIN) from error
    assert isinstance(module, nn.Module), "a ScriptModule is one"  # noqa: S101
    return module


def convert(module: nn.Module, taken: Sequence[TensorSpec], path: Path) -> Program:
    """Make a program of a TorchScript module.

    Args:
        module: what :func:`load_script` gave.
        taken: its inputs, batch first.
        path: the file, for errors.

    Raises:
        CheckpointError: it doesn't take these inputs, it is in training mode, or PyTorch can't convert it.
    """
    from torch._export.converter import TS2EPConverter

    kind = str(getattr(module, "original_name", "")) or type(module).__name__
    samples = example(taken, 2)
    script: Any = module
    try:
        with quiet():
            run_once(module, samples)
    except InputError as error:
        raise CheckpointError(
            f"'{path}': {_reason(error)}", "give another --input-size, or its inputs with --input"
        ) from error
    try:
        with quiet(), torch.no_grad():
            program = TS2EPConverter(script, samples).convert()
            found = plain(program, str(path), title=kind if kind.isidentifier() else "Script")
    except CheckpointError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the converter raises whatever its handlers do
        raise CheckpointError(
            f"PyTorch can't convert the TorchScript in '{path}': {_root(error)}", _PYTHON
        ) from error
    with quiet():
        try:
            alike = all(same_answers(found.module, module, tuple(taken), size) for size in (1, 3))
        except InputError as error:
            raise CheckpointError(f"'{path}' doesn't take every batch size: {_reason(error)}", _PYTHON) from error
    if not alike:
        raise CheckpointError(f"PyTorch converts the TorchScript in '{path}' to something else", _PYTHON)
    _parameters_again(found.module, {name for name, _ in module.named_parameters()})
    return Program(found.module, tuple(taken))


def _parameters_again(module: nn.Module, names: set[str]) -> None:
    """Make parameters of what the converter left as buffers."""
    for name, tensor in list(module.named_buffers()):
        if name in names and tensor.is_floating_point():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            delattr(owner, last)
            owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return said(error)


def _reason(error: InputError) -> str:
    """TorchScript tells its own traceback first and what went wrong last."""
    cause: BaseException = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else error.cause)
