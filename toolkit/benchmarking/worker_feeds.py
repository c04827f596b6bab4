"""What a measuring process feeds its session: pixels, tensors, or noise before it is given any."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.preprocess import Preprocess
from engines.tensors import Array, TensorSpec


def prepared(spec: TensorSpec, pixels: NDArray[np.uint8], preprocess: Preprocess | None) -> Array:
    """Pixels [N, H, W, C] as an input takes them; None leaves them to a graph that normalises by itself."""
    values: Array = pixels if preprocess is None else preprocess.normalise(pixels)
    return values if values.dtype.name == spec.dtype else values.astype(spec.dtype)


def feeds_for(
    inputs: Sequence[TensorSpec], samples: NDArray[np.uint8] | Mapping[str, Array], preprocess: Preprocess | None
) -> dict[str, Array]:
    """Samples as a session takes them, by input.

    Args:
        inputs: the session's.
        samples: pixels, as for :func:`prepared`, or an array an input.
        preprocess: of pixels.

    Raises:
        InputError: they aren't what it takes.
    """
    if isinstance(samples, np.ndarray):
        return {inputs[0].name: prepared(inputs[0], samples, preprocess)}
    if len(inputs) == len(samples) == 1:  # whatever a foreign engine calls its only input
        samples = {inputs[0].name: next(iter(samples.values()))}
    found = {}
    for spec in inputs:
        if spec.name not in samples:
            raise InputError(f"the engine takes {spec}, which the data hasn't", "give data of this network")
        array = samples[spec.name]
        alike = array.dtype.name == spec.dtype or {array.dtype.name, spec.dtype} <= {"float16", "float32"}
        if not alike:
            raise InputError(f"the engine takes {spec}, the data has {array.dtype.name}", "build it anew")
        found[spec.name] = array.astype(spec.dtype, copy=False)
    return found


def noise(spec: TensorSpec, batch: int) -> Array:
    """Seeded random values of the tensor's type, with every varying dimension set to ``batch``.

    Bytes are pixels. Other integers may be looked up in a table of any size, and are 0 or 1.
    """
    shape = tuple(size if isinstance(size, int) else batch for size in spec.shape)
    rng = np.random.default_rng(0)
    if spec.dtype in {"uint8", "int8"}:
        return rng.integers(0, np.iinfo(spec.dtype).max, shape, spec.dtype, endpoint=True)
    if np.dtype(spec.dtype).kind in "iub":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.standard_normal(shape, np.float32).astype(spec.dtype)
