"""Arrays on a GPU, in and out: what other libraries have there, and what an engine leaves there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.cuda import CudaDevice
from engines.errors import InputError, RunError
from engines.tensors import Array

_CUDA, _MANAGED = 2, 13
"""DLPack's numbers of the kinds of memory that a GPU reads at full speed."""

ALIGNMENT = 256
"""Bytes: what CUDA's own allocations are aligned to, and what TensorRT asks of an address that it is given."""


@dataclass(frozen=True)
class DeviceInput:
    """An input that is on the device already.

    Attributes:
        owner: what holds the memory; kept until the run has ended.
        address: where it begins.
        shape, dtype: what lies there, without gaps, the last dimension nearest.
    """

    owner: Any
    address: int
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def aligned(self) -> bool:
        """Whether an engine can read it where it is."""
        return self.address % ALIGNMENT == 0

    @property
    def stand_in(self) -> Array:
        """An array of the same type and shape that holds nothing, for checks."""
        return np.broadcast_to(np.empty((), self.dtype), self.shape)


def is_on_a_device(value: Any) -> bool:
    """Whether a feed is something other than a numpy array that may be on a GPU."""
    return not isinstance(value, np.ndarray) and (
        hasattr(value, "__dlpack_device__") or hasattr(value, "__cuda_array_interface__")
    )


def adopt(gpu: CudaDevice, name: str, value: Any, stream: Any) -> DeviceInput:
    """Look at an array of another library on this device, in the order of ``stream``.

    Args:
        gpu: the device.
        name: of the input.
        value: exports ``__dlpack__`` or ``__cuda_array_interface__``.
        stream: it is made to wait for what the other library still has under way.

    Raises:
        InputError: it isn't on this device, has gaps, or is of a type that numpy lacks.
    """
    kind = type(value).__name__
    elsewhere = InputError(f"input {name} is a {kind} that is not on {gpu}", "give a numpy array, or move it there")
    if hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) not in {_CUDA, _MANAGED}:
        raise elsewhere
    try:
        view = gpu.view(value, stream)
        dtype = view.dtype  # raises for some types that numpy lacks
    except Exception as error:  # each library has its own reasons not to export
        raise InputError(
            f"input {name}: the {kind} can't be read on {gpu}: {' '.join(str(error).split())}",
            "detach it, or give a numpy array",
        ) from error
    if view.device_id != gpu.index:
        raise elsewhere
    shape = tuple(int(size) for size in view.shape)
    if dtype is None:
        raise InputError(f"input {name} is of a type that numpy lacks", "convert it to what the engine takes")
    if not _dense(shape, view.strides):
        raise InputError(f"input {name} has gaps between its elements", "make it contiguous")
    return DeviceInput((value, view), int(view.ptr), shape, np.dtype(dtype))


def _dense(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether strides, counted in elements, leave no gaps; a dimension of one element has any stride."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class DeviceArray:
    """An output where the engine has left it: other libraries read it through DLPack or the CUDA array interface.

    Nothing is copied: the memory is the session's. What is read from it has to be read, to the end, before the next
    run of the session (or of the slot that it came from) begins; afterwards the array refuses to be exported.

    Attributes:
        name: of the output.
        shape, dtype: what lies there, without gaps.
        device: "cuda:0".
    """

    def __init__(
        self,
        gpu: CudaDevice,
        name: str,
        buffer: Any,
        dtype: "np.dtype[Any]",
        shape: tuple[int, ...],
        valid: Callable[[], bool],
    ) -> None:
        self._gpu, self._buffer, self._valid = gpu, buffer, valid
        self.name, self.dtype, self.shape, self.device = name, dtype, shape, str(gpu)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._check()
        # The run has ended, so there is no stream to wait for.
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (int(self._buffer.handle), False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._gpu.index

    def __dlpack__(self, **options: Any) -> Any:
        self._check()
        return self._gpu.export(self._buffer, self.shape, self.dtype).__dlpack__(**options)

    def _check(self) -> None:
        if not self._valid():
            raise RunError(
                f"the output '{self.name}' is gone from {self.device}: its session has run again or is closed",
                "copy what is to be kept before the next run",
            )

    def __repr__(self) -> str:
        return f"DeviceArray({self.name}: {self.dtype}{list(self.shape)} on {self.device})"
