"""State dicts as people save them: find them, strip prefixes, check them, digest them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from engines.errors import CheckpointError
from engines.files import digest_bytes

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Keys under which training scripts keep the state dict beside the optimizer's, the epoch and so on."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrapping classes put before every key."""

State = dict[str, torch.Tensor]


def find_state(value: object, name: str) -> object:
    """Look through wrapping dictionaries for the state dict, or the whole module, that a file holds.

    Args:
        value: what ``torch.load`` gave.
        name: the file, for the error.

    Returns:
        A mapping of tensors, or a ``torch.nn.Module``.

    Raises:
        CheckpointError: there is neither; the cause says what was found.
    """
    if isinstance(value, torch.nn.Module):
        return value
    if isinstance(value, Mapping):
        if value and all(isinstance(entry, torch.Tensor) for entry in value.values()):
            return value
        for key in WRAPPERS:
            if isinstance(value.get(key), Mapping | torch.nn.Module):
                return find_state(value[key], name)
        found = f"a dictionary with the keys {_some(value)}" if value else "an empty dictionary"
    elif isinstance(value, torch.Tensor):
        found = f"a single tensor {list(value.shape)}"
    else:
        found = f"a {type(value).__name__}"
    raise CheckpointError(
        f"'{name}' holds no state dict but {found}", "save it with torch.save(model.state_dict(), path)"
    )


def canonical(state: Mapping[Any, torch.Tensor], name: str) -> State:
    """The state dict as the toolkit works with it: plain keys, dense FP32 tensors on the CPU, all finite.

    Raises:
        CheckpointError: a tensor is quantised, sparse or complex, or a value is NaN or infinite.
    """
    result: State = {}
    for key, tensor in strip_prefixes({str(key): tensor for key, tensor in state.items()}).items():
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_complex():
            kind = "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else "sparse"
            raise CheckpointError(
                f"'{name}' has a {kind} tensor: {key}", "save the float network before converting it"
            )
        plain = tensor.detach().to("cpu")
        plain = plain.float() if plain.is_floating_point() else plain
        if plain.is_floating_point() and not bool(torch.isfinite(plain).all()):
            bad = int((~torch.isfinite(plain)).sum())
            raise CheckpointError(
                f"'{name}' has {bad} NaN or infinite value{'s' * (bad != 1)} in {key} {list(plain.shape)}",
                "the training diverged: take an earlier checkpoint, or train with a lower learning rate",
            )
        result[key] = plain.contiguous()
    return result


def strip_prefixes(state: State) -> State:
    """Take away every prefix of :data:`PREFIXES` that all keys share, and the counter of an averaged model."""
    if "n_averaged" in state and len(state) > 1:
        state = {key: tensor for key, tensor in state.items() if key != "n_averaged"}
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) and key != prefix for key in state):
            return strip_prefixes({key.removeprefix(prefix): tensor for key, tensor in state.items()})
    return state


def digest_state(state: Mapping[str, torch.Tensor]) -> str:
    """``sha256:<hex>`` over key, dtype, shape and bytes of every tensor, in the order of the keys."""
    parts: list[bytes | memoryview] = []
    for key in sorted(state):
        array = state[key].detach().cpu().contiguous().numpy()
        data: Any = array.reshape(-1).view(np.uint8)
        parts += [f"{key}\0{array.dtype}\0{array.shape}\0".encode(), data]
    return digest_bytes(*parts)


def _some(keys: Iterable[object]) -> str:
    names = [str(key) for key in keys]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
