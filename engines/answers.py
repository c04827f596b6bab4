"""What a PyTorch module answers, as named tensors: a tensor, a tuple, a mapping, a NamedTuple or a dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from engines.errors import InputError

if TYPE_CHECKING:
    import torch


def answers_of(answer: object) -> "dict[str, torch.Tensor]":
    """The tensors of one answer by name, in the module's order; what is None in a dataclass or mapping is left out.

    A mapping's keys and the fields of a NamedTuple or dataclass are their names. A lone tensor is "output"; those of
    a plain tuple are "output0", "output1" and so on. Nested structures join their names with an underscore.

    Raises:
        InputError: something in it is no tensor.
    """
    found: dict[str, torch.Tensor] = {}
    _collect(answer, "", found)
    if not found:
        raise InputError("the module answers nothing", "let its forward return tensors")
    return found


def _collect(answer: Any, name: str, found: "dict[str, torch.Tensor]") -> None:
    parts = _parts(answer)
    if parts is not None:
        for key, value in parts.items():
            if value is not None:
                _collect(value, f"{name}_{key}" if name else key, found)
    elif _is_tensor(answer):
        found[name or "output"] = answer
    else:
        raise InputError(
            f"the module answers {f'{name}: ' if name else ''}a {type(answer).__name__}, no tensor",
            "let its forward return a tensor, a tuple or a dict of tensors",
        )


def _parts(answer: Any) -> Mapping[str, Any] | None:
    """What a structure holds, by name; None for what is no structure."""
    if isinstance(answer, Mapping):
        return {str(key): value for key, value in answer.items()}
    if hasattr(answer, "_fields"):
        return dict(zip(answer._fields, answer, strict=True))
    if is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: getattr(answer, field.name) for field in fields(answer)}
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return {f"output{index}": value for index, value in enumerate(answer)} if len(answer) > 1 else _lone(answer)
    return None


def _lone(answer: Sequence[Any]) -> Mapping[str, Any]:
    """A tuple of one is that one."""
    inner = _parts(answer[0]) if answer else {}
    return inner if inner is not None else {"output": answer[0]}


def _is_tensor(value: object) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "detach") and hasattr(value, "shape")
