"""CUDA without torch: a device, its streams and events, and staged tensors, over cuda-core."""

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import RunError, UnsupportedError
from engines.nvidia_wheels import has_nvidia_driver
from engines.optional import require
from engines.tensors import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

API = {
    "Device": ("set_current", "create_stream", "create_event", "allocate", "name", "compute_capability"),
    "Stream": ("handle", "record", "wait", "sync", "close"),
    "Event": ("__sub__", "is_done", "sync", "close"),
    "EventOptions": ("timing_enabled",),
    "Buffer": ("handle", "copy_to", "close", "from_handle"),
    "LegacyPinnedMemoryResource": ("allocate",),
    "utils.StridedMemoryView": (
        "from_any_interface",
        "from_buffer",
        "ptr",
        "shape",
        "strides",
        "dtype",
        "device_id",
        "__dlpack__",
    ),
}
"""What is used of ``cuda.core``. A release that lacks any of it is refused by name, before it fails half-way."""


def cuda_core() -> Any:
    """The module ``cuda.core``.

    Raises:
        MissingLibraryError: it isn't installed.
        UnsupportedError: it is too old.
    """
    core = require("cuda.core", "Running on a GPU", "tensorrt")
    require("cuda.core.utils", "Running on a GPU", "tensorrt")
    if missing := missing_names(core):
        raise UnsupportedError(
            f"cuda-core {getattr(core, '__version__', '')} lacks {missing[0]}", "pip install -U 'cuda-core>=1.0'"
        )
    return core


def missing_names(core: Any) -> list[str]:
    """The names of :data:`API` that a ``cuda.core`` doesn't have."""
    missing = []
    for path, members in API.items():
        owner = core
        for part in path.split("."):
            owner = getattr(owner, part, None)
        missing += [f"{path}.{member}" for member in members if owner is None or not hasattr(owner, member)]
    return missing


class CudaDevice:
    """One GPU, made current in the thread that opens it.

    Args:
        index: its number as CUDA counts (``CUDA_VISIBLE_DEVICES`` applies).

    Raises:
        UnsupportedError: there is no driver or no such device, or cuda-core is missing or too old.
    """

    def __init__(self, index: int) -> None:
        self._core = cuda_core()
        self.index = index
        if not has_nvidia_driver():
            raise UnsupportedError(
                "a TensorRT engine runs on an NVIDIA GPU, and this machine has none, or no driver for it",
                "install the driver, or run an .onnx graph with --device cpu",
            )
        try:
            self._device = self._core.Device(index)
            self._device.set_current()
            self.name = str(self._device.name)
            capability = self._device.compute_capability
            self.compute_capability = f"{capability.major}.{capability.minor}"
        except Exception as error:  # cuda-core raises what the driver's absence makes of it
            raise UnsupportedError(
                f"CUDA device {index} can't be used: {' '.join(str(error).split())}",
                "run `toolkit doctor`, or use --device cpu with an .onnx graph",
            ) from error

    def make_current(self) -> None:
        """Make this device the calling thread's; a session may move from one thread to another."""
        # cuda-core keeps its devices by thread.
        device = self._core.Device(self.index)
        device.set_current()

    def stream(self) -> Any:
        """A new stream that doesn't wait for the default stream."""
        return self._device.create_stream()

    def timer(self) -> Any:
        """A new event: streams and the host can wait for it, and two of them subtract to milliseconds."""
        return self._device.create_event(options=self._core.EventOptions(timing_enabled=True))

    def pinned(self, nbytes: int) -> Any:
        """A buffer in page-locked host memory."""
        return self._core.LegacyPinnedMemoryResource().allocate(nbytes)

    def memory(self, nbytes: int, stream: Any) -> Any:
        """A buffer on the device, allocated in the order of ``stream``."""
        return self._device.allocate(nbytes, stream=stream)

    def part(self, buffer: Any, start: int, nbytes: int) -> Any:
        """``nbytes`` of a buffer from byte ``start``, as a buffer that keeps it alive; copies take whole buffers."""
        return self.borrowed(int(buffer.handle) + start, nbytes, buffer)

    def borrowed(self, address: int, nbytes: int, owner: Any) -> Any:
        """Memory of somebody else as a buffer; it keeps ``owner`` and never frees the memory."""
        return self._core.Buffer.from_handle(address, nbytes, owner=owner)

    def view(self, array: Any, stream: Any) -> Any:
        """An array of another library, through DLPack or the CUDA array interface.

        ``stream`` is made to wait for what the library has under way on it, where the library says.
        """
        return self._core.utils.StridedMemoryView.from_any_interface(array, stream_ptr=int(stream.handle))

    def export(self, buffer: Any, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Any:
        """A buffer as an array that other libraries take through DLPack."""
        return self._core.utils.StridedMemoryView.from_buffer(buffer, shape, dtype=dtype)

    def __str__(self) -> str:
        return f"cuda:{self.index}"


MAX_PARTS = 4096
"""Parts of a tensor that are remembered: more than the batch sizes that a service sees, a few hundred bytes each."""


class StagedTensor:
    """A tensor's two homes: page-locked memory on the host, and memory on the device.

    Both are allocated once, for the largest shape; a smaller batch uses the beginning.

    Args:
        device: where.
        nbytes: bytes of the largest shape.
        stream: orders the allocation.

    Attributes:
        nbytes: bytes of either home.
    """

    def __init__(self, device: CudaDevice, nbytes: int, stream: Any) -> None:
        size = self.nbytes = max(nbytes, 1)
        self._gpu = device
        self._pinned = device.pinned(size)
        self._memory = device.memory(size, stream)
        # numpy sees the pinned memory through its address, and doesn't own it.
        raw = (ctypes.c_uint8 * size).from_address(int(self._pinned.handle))
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(memoryview(raw).cast("B"), np.uint8)
        self._parts: dict[tuple[int, int], tuple[Any, Any]] = {(0, size): (self._pinned, self._memory)}

    @property
    def address(self) -> int:
        """The device memory's address."""
        return int(self._memory.handle)

    def host(self, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> Array:
        """The host memory as an array; valid until the tensor is closed, and changed by the next copy."""
        if self._bytes is None:
            raise RunError("the tensor's buffers are closed", "open the engine again")
        count = int(np.prod(shape)) * dtype.itemsize
        return self._bytes[:count].view(dtype).reshape(shape)

    def to_device(self, nbytes: int, stream: Any, start: int = 0) -> None:
        """Copy bytes, the first ones unless ``start`` says, host to device, in the order of ``stream``."""
        pinned, memory = self._part(nbytes, start)
        pinned.copy_to(memory, stream=stream)

    def to_host(self, nbytes: int, stream: Any) -> None:
        """Copy the first bytes device to host, in the order of ``stream``."""
        pinned, memory = self._part(nbytes)
        memory.copy_to(pinned, stream=stream)

    def from_elsewhere(self, address: int, nbytes: int, owner: Any, stream: Any) -> None:
        """Copy from other memory of the device into the first bytes, in the order of ``stream``."""
        buffer = self._gpu.borrowed(address, nbytes, owner)
        buffer.copy_to(self.on_device(nbytes), stream=stream)

    def on_device(self, nbytes: int) -> Any:
        """The first bytes of the device memory, as a buffer."""
        return self._part(nbytes)[1]

    def close(self, stream: Any) -> None:
        """Give both memories back; the tensor must not be in use."""
        self._bytes = None
        self._parts.clear()
        self._memory.close(stream)
        self._pinned.close()

    def _part(self, nbytes: int, start: int = 0) -> tuple[Any, Any]:
        key = (start, nbytes)
        if key not in self._parts:
            if len(self._parts) >= MAX_PARTS:
                self._parts.clear()
            self._parts[key] = (
                self._gpu.part(self._pinned, start, nbytes),
                self._gpu.part(self._memory, start, nbytes),
            )
        return self._parts[key]
