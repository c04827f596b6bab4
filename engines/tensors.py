"""Names, types and shapes of an engine's tensors, and the check that feeds fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError

Array = NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine.

    Attributes:
        name: the tensor's name.
        dtype: numpy's name of its element type ("float32", "uint8"); "bfloat16" for BF16.
        shape: an int for a fixed dimension, a name for one that varies ("batch").
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TensorSpec":
        return cls(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def check_feeds(inputs: Sequence[TensorSpec], feeds: Feeds) -> int:
    """Check that ``feeds`` gives every input an array of its type and shape.

    Returns:
        The batch size: the size of the first dimension of the first input.

    Raises:
        InputError: a tensor is missing, unknown, of another dtype or shape, or batch sizes differ.
    """
    expected = {spec.name for spec in inputs}
    if missing := sorted(expected - feeds.keys()):
        raise InputError(f"no value for input {', '.join(missing)}", f"inputs are {'; '.join(map(str, inputs))}")
    if unknown := sorted(feeds.keys() - expected):
        raise InputError(f"unknown input {', '.join(unknown)}", f"inputs are {'; '.join(map(str, inputs))}")
    named: dict[str, int] = {}
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray) or array.dtype.name != spec.dtype:
            found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"input {spec.name} is {found}, not {spec.dtype}", f"convert it to {spec.dtype}")
        fits = array.ndim == len(spec.shape) and all(
            size == want if isinstance(want, int) else named.setdefault(want, size) == size
            for size, want in zip(array.shape, spec.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input {spec.name} has shape {list(array.shape)}", f"expected {spec}")
        if 0 in array.shape:
            raise InputError(f"input {spec.name} is empty: {list(array.shape)}", "give at least one sample")
    first = feeds[inputs[0].name]
    return int(first.shape[0]) if first.ndim else 1
