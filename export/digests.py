"""Digests of constants: by parts, so that every core takes part in hashing what may be gigabytes of weights.

The digest of a constant is SHA-256 over its element type, its shape and the SHA-256 digests of its values' parts of
4 MiB (:data:`PART`), in order.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.onnxlib import onnx

PART = 1 << 22
_THREADS = 8


def tensor_digests(
    tensors: Iterable[onnx.TensorProto], arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> list[str]:
    """The digest of each constant, 64 hexadecimal digits; ``arrays`` as for :func:`constant_digests`."""
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        return [_digest(tensor, pool, arrays.get(tensor.name)) for tensor in tensors]


def constant_digests(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]] | None = None) -> dict[str, str]:
    """The digest of each initializer of a graph, by its name.

    Args:
        model: the graph; initializers that ``arrays`` has may be stubs of the same type and shape.
        arrays: values that are at hand already, C-contiguous, by name: the graph's own would be copied.
    """
    tensors = list(model.graph.initializer)
    return dict(zip((tensor.name for tensor in tensors), tensor_digests(tensors, arrays or {}), strict=True))


def _digest(tensor: onnx.TensorProto, pool: ThreadPoolExecutor, values: NDArray[Any] | None) -> str:
    if values is not None:
        data: bytes | memoryview = values.reshape(-1).view(np.uint8).data
    else:
        data = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
    head = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)}\0".encode())
    if len(data) <= PART:
        head.update(hashlib.sha256(data).digest())
        return head.hexdigest()
    view = memoryview(data)
    parts = pool.map(_part, (view[start : start + PART] for start in range(0, len(data), PART)))
    head.update(b"".join(parts))
    return head.hexdigest()


def _part(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
