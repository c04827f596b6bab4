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


def canonical(state: Mapping[Any, torch.Tensor], name: str, *, strip: bool = True) -> State:
    """The state dict as the toolkit works with it: plain keys, dense FP32 tensors on the CPU, all finite.

    Args:
        state: as it was saved.
        name: the file, for the error.
        strip: take prefixes away (:func:`strip_prefixes`).

    Raises:
        CheckpointError: a tensor is quantised, sparse or complex, or a value is NaN or infinite.
    """
    result: State = {}
    keyed = {str(key): tensor for key, tensor in state.items()}
    for key, tensor in (strip_prefixes(keyed) if strip else keyed).items():
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


def renamed(state: Mapping[Any, torch.Tensor], expected: Mapping[str, object]) -> State:
    """The state dict under the keys that a network expects, where the two differ by wrapping prefixes alone.

    A network may itself have all its layers under ``net.``: then that prefix stays.
    """
    found = {str(key): tensor for key, tensor in state.items()}
    if "n_averaged" in found and "n_averaged" not in expected:
        found.pop("n_averaged")
    if _differing(found, expected) == 0:
        return found
    plain = strip_prefixes(found)
    back = dict(zip(_stripped(expected), expected, strict=True))
    tried = [found, plain, {back.get(key, key): tensor for key, tensor in plain.items()}]
    return min(tried, key=lambda keyed: _differing(keyed, expected))


def difference(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """What tells the shapes of a state dict from those that a network has: missing, unexpected, other shapes."""
    other = [
        f"{key} {list(found[key])} not {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    parts = (
        _listed("missing", [key for key in expected if key not in found and not _counter(key)]),
        _listed("unexpected", [key for key in found if key not in expected]),
        _listed("other shape", other),
    )
    return ", ".join(part for part in parts if part)


def digest_state(state: Mapping[str, torch.Tensor]) -> str:
    """``sha256:<hex>`` over key, dtype, shape and bytes of every tensor, in the order of the keys."""
    parts: list[bytes | memoryview] = []
    for key in sorted(state):
        array = state[key].detach().cpu().contiguous().numpy()
        data: Any = array.reshape(-1).view(np.uint8)
        parts += [f"{key}\0{array.dtype}\0{array.shape}\0".encode(), data]
    return digest_bytes(*parts)


def _stripped(expected: Mapping[str, object]) -> list[str]:
    """The keys without the prefixes that :func:`strip_prefixes` takes away, in their order."""
    return list(strip_prefixes({key: torch.empty(0) for key in expected}))


def _counter(key: str) -> bool:
    """Whether it is batch normalisation's count of batches, which inference doesn't need."""
    return key.endswith("num_batches_tracked")


def _differing(found: Mapping[str, object], expected: Mapping[str, object]) -> int:
    return sum(not _counter(key) for key in found.keys() ^ expected.keys())


def _listed(what: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{what} {', '.join(entries[:3])}{more}"


def _some(keys: Iterable[object]) -> str:
    names = [str(key) for key in keys]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
