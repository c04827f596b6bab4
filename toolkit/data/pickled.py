"""Plain values in a pickle (numbers, strings, lists, arrays of bytes), read without running anything in it."""

import io
import pickle
from typing import IO, Any

import numpy as np

from engines.errors import DataError

MAX_BYTES = 256 << 20
"""The largest pickle that is read into memory."""

_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"),
}  # fmt: skip


class _Stub:
    """Stands for what a pickle calls by name: it keeps the arguments and the state, and does nothing with them."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Stub


def read_plain_pickle(label: str, file: IO[bytes]) -> object:
    """The value in ``file``: strings of Python 2 as bytes, arrays of unsigned bytes as such.

    Args:
        label: the file's name, for errors.
        file: the pickle, from its start.

    Raises:
        DataError: it is damaged, or holds anything but plain values; nothing of it has run.
    """
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"'{label}' is larger than {MAX_BYTES >> 20} MiB", "give the file as it is published")
    try:
        value = _Reader(io.BytesIO(content), encoding="bytes").load()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged pickles raise almost anything
        reason = str(error) or type(error).__name__
        raise DataError(
            f"can't read the pickle '{label}': {reason}", "download it again from where the data set is published"
        ) from error
    if isinstance(value, dict):
        return {key: _array(label, item) if isinstance(item, _Stub) else item for key, item in value.items()}
    return value


def _array(label: str, stub: _Stub) -> Any:
    """The array of a numpy pickle: its state is (version, shape, dtype, Fortran order, bytes)."""
    try:
        _, shape, dtype, fortran, data = stub.state
        kind = dtype.arguments[0]
        if kind not in {"u1", b"u1", "uint8", b"uint8"} or not isinstance(data, bytes):
            raise ValueError(f"an array of {kind!r}")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"'{label}' holds an array that isn't of plain bytes", "download it again") from error
