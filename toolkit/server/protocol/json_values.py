"""Arrays as JSON's lists of values."""

from itertools import chain
from typing import Any

import numpy as np

from engines.errors import InputError, UnsupportedError
from engines.tensors import Array
from toolkit.server.protocol.datatypes import DType
from toolkit.server.protocol.limits import short

_KINDS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "O": (frozenset({str}), "strings"),
}
_NUMBERS = (frozenset({int, float}), "numbers")
"""What JSON may hold for each kind of numpy type; BF16 has a kind of its own."""


def read(name: str, dtype: DType, shape: tuple[int, ...], count: int, data: object) -> Array:
    """The array that a JSON list holds, flat or nested as its shape.

    Args:
        name: the tensor's, for the messages.
        dtype: of :func:`toolkit.server.protocol.datatypes.numpy_type`.
        shape: the array's.
        count: the product of ``shape``.
        data: what came as "data".

    Raises:
        InputError: it is no list, has another shape, or holds values that the type can't.
    """
    values = _flat(name, shape, count, data)
    allowed, word = _KINDS.get(dtype.kind, _NUMBERS)
    if not allowed.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in allowed)
        raise InputError(f"the data of input {short(name)} hold {_shown(wrong)}", f"{_word(dtype)} takes {word}")
    if dtype.hasobject:
        array = np.empty(count, object)
        array[:] = [value.encode() for value in values]
    elif dtype.kind in "iu":
        array = _whole(name, dtype, values)
    elif dtype.kind == "b":
        array = np.array(values, dtype)
    else:
        array = _real(name, dtype, values)
    return array.reshape(shape)


def write(name: str, array: Array) -> Array | list[str]:
    """What orjson writes as the flat list of an array's values.

    Raises:
        UnsupportedError: a value is NaN or infinite, or bytes aren't UTF-8: JSON has no words for them.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.hasobject:
        try:
            return [element.decode() for element in flat]
        except UnicodeDecodeError:
            raise UnsupportedError(
                f"output {short(name)} holds bytes that are no UTF-8, which JSON can't", "ask for it as binary data"
            ) from None
    if flat.dtype.kind not in "biu":
        if flat.dtype.kind != "f":
            flat = flat.astype(np.float32)  # BF16, which orjson doesn't know
        if not np.isfinite(flat).all():
            raise UnsupportedError(
                f"output {short(name)} holds NaN or infinity, which JSON can't", "ask for it as binary data"
            )
    return flat if flat.dtype.isnative else flat.astype(flat.dtype.newbyteorder("="))


def _flat(name: str, shape: tuple[int, ...], count: int, data: object) -> list[Any]:
    """The values of a list that is flat, or nested exactly as the shape says."""
    if type(data) is not list:
        raise InputError(f"the data of input {short(name)} are no list", 'give "data" as a list of values')
    rows: list[Any] = data
    if len(shape) > 1 and rows and type(rows[0]) is list:
        if len(rows) != shape[0]:
            raise _misshapen(name, shape)
        for size in shape[1:]:
            if not all(type(row) is list and len(row) == size for row in rows):
                raise _misshapen(name, shape)
            rows = list(chain.from_iterable(rows))
    if len(rows) != count:
        raise InputError(
            f"input {short(name)} has {len(rows)} values, and its shape {list(shape)} needs {count}",
            "give as many values as the shape has elements",
        )
    return rows


def _misshapen(name: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"the lists of input {short(name)} aren't nested as its shape {list(shape)}",
        "give its values as one flat list, or as lists of that shape",
    )


def _whole(name: str, dtype: DType, values: list[int]) -> Array:
    try:
        wide: Array | list[int] = np.array(values, np.int64)  # its ends are found faster than those of a list
        low, high = np.min(wide, initial=0), np.max(wide, initial=0)
    except OverflowError:  # UINT64 reaches further
        wide, low, high = values, min(values), max(values)
    bounds = np.iinfo(dtype)
    for value in (low, high):
        if not bounds.min <= value <= bounds.max:
            raise InputError(
                f"the data of input {short(name)} hold {value}",
                f"{_word(dtype)} reaches to {bounds.min}..{bounds.max}",
            )
    return np.array(wide, dtype)


def _real(name: str, dtype: DType, values: list[float]) -> Array:
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype(dtype)
    if not np.isfinite(array).all():
        raise InputError(
            f"the data of input {short(name)} hold a number that is too large for {_word(dtype)}",
            "send a wider type, or the values as binary data",
        )
    return array


def _word(dtype: DType) -> str:
    return "BYTES" if dtype.hasobject else dtype.name


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return short(value)
