"""Arrays as the protocol's raw bytes: little-endian, row by row; "BYTES" elements each behind its length."""

from struct import Struct

import numpy as np

from engines.errors import InputError
from engines.tensors import Array
from toolkit.server.protocol.datatypes import DType
from toolkit.server.protocol.limits import short

LENGTH = Struct("<I")
"""What stands before each element of a "BYTES" tensor."""

WHOLE = 1 << 16
"""Bytes of an array from which a view of it is handed on in place of a copy: copying less costs less than another
piece to send."""


def read(name: str, dtype: DType, shape: tuple[int, ...], count: int, data: memoryview | bytes) -> Array:
    """The array that ``data`` holds: a view of it, but for "BYTES".

    Args:
        name: the tensor's, for the messages.
        dtype: of :func:`toolkit.server.protocol.datatypes.numpy_type`.
        shape: the array's.
        count: the product of ``shape``.
        data: exactly the tensor's bytes.

    Raises:
        InputError: there are more or fewer bytes than the shape needs, or a "BOOL" is neither 0 nor 1.
    """
    if dtype.hasobject:
        return _elements(name, count, memoryview(data)).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise InputError(
            f"input {short(name)} has {len(data)} bytes of data, and its shape {list(shape)} of"
            f" {dtype.name} needs {count * dtype.itemsize}",
            "send the bytes of every element, little-endian and without padding",
        )
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise InputError(f"input {short(name)} is BOOL and holds a byte other than 0 and 1", "send 0 or 1")
    return np.frombuffer(data, dtype).reshape(shape)


def write(array: Array) -> bytes | memoryview:
    """The bytes of an array: a view of a large one that is contiguous, else a copy."""
    if array.dtype.hasobject:
        return b"".join(piece for element in array.flat for piece in (LENGTH.pack(len(element)), element))
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not LITTLE):
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.nbytes < WHOLE:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


LITTLE = np.little_endian


def _elements(name: str, count: int, data: memoryview) -> Array:
    if count * LENGTH.size > len(data):
        raise InputError(
            f"input {short(name)} has {len(data)} bytes of data, too few for {count} elements of BYTES",
            "send each element behind its length, four bytes, little-endian",
        )
    elements, at = np.empty(count, object), 0
    for number in range(count):
        start = at + LENGTH.size
        end = start + LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise InputError(
                f"element {number} of input {short(name)} ends behind the input's {len(data)} bytes",
                "send each element behind its length, four bytes, little-endian",
            )
        elements[number] = bytes(data[start:end])
        at = end
    if at != len(data):
        raise InputError(
            f"input {short(name)} has {len(data) - at} bytes behind its {count} elements",
            "let the shape count every element",
        )
    return elements
