"""What a graph and its network are both fed for a verification: random and real samples, as each takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.onnxlib import onnx
from export.structure import initializers


@dataclass(frozen=True)
class Samples:
    """Samples of one kind.

    Attributes:
        arrays: what the network takes, one array [N, ...] an input, in its order.
        pixels: uint8 [N, height, width, channels], where the samples are pictures.
    """

    arrays: tuple[NDArray[Any], ...]
    pixels: NDArray[np.uint8] | None = None

    def doubled(self) -> list[NDArray[Any]]:
        """The arrays with floats as float64."""
        return [a.astype(np.float64) if a.dtype.kind == "f" else a for a in self.arrays]

    def feeds(self, specs: Sequence[TensorSpec], names: Sequence[str], batch: int) -> dict[str, NDArray[Any]]:
        """The first ``batch`` samples as a graph takes them.

        Args:
            specs: the graph's inputs.
            names: the network's, in the order of ``arrays``.
            batch: how many.

        Raises:
            InputError: the graph takes a type that the samples can't be turned into.
        """
        found = {}
        for spec in specs:
            array = self.arrays[0 if len(specs) == 1 else list(names).index(spec.name)]
            if spec.dtype == "uint8" and self.pixels is not None:
                array = self.pixels
            elif spec.dtype != array.dtype.name and {spec.dtype, array.dtype.name} - {"float16", "float32"}:
                raise InputError(
                    f"the graph's input is {spec}, but the network takes {array.dtype.name}", "export the graph again"
                )
            found[spec.name] = np.ascontiguousarray(array[:batch].astype(spec.dtype, copy=False))
        return found


def samples_of(
    metadata: ModelMetadata,
    model: onnx.ModelProto,
    images: NDArray[np.uint8] | None,
    tensors: Mapping[str, NDArray[Any]] | None,
    count: int,
    seed: int,
) -> dict[str, Samples]:
    """``count`` samples a kind: "random", and "real" where there are any.

    Random pictures are uniform pixels; of tensors floats are standard normal, booleans either, and integers lie below
    the size of what the graph looks up with them (:func:`lookups`), or are 0 or 1 where it looks nothing up.

    Args:
        metadata: the network's.
        model: the graph.
        images: real pictures, uint8 [N, height, width, channels]; None where there are none.
        tensors: real inputs by name, for a network that takes no pictures.
        count: samples a kind; real ones are repeated where there are fewer.
        seed: of the random ones.

    Raises:
        InputError: the real samples don't fit.
    """
    rng = np.random.default_rng(seed)
    if metadata.pictures is not None:
        return _pictures(metadata.preprocess, images, count, rng)
    sizes = lookups(model)
    kinds = {"random": Samples(tuple(_random(spec, sizes.get(spec.name, 2), count, rng) for spec in metadata.taken))}
    if tensors is not None:
        chosen = []
        for spec in metadata.taken:
            array = tensors.get(spec.name)
            if array is None or array.dtype.name != spec.dtype or array.shape[1:] != spec.shape[1:] or not len(array):
                shown = "nothing" if array is None else f"{array.dtype.name} {list(array.shape)}"
                raise InputError(f"real samples for {spec} are {shown}", "give one array an input, by its name")
            chosen.append(array[np.arange(count) % len(array)])
        kinds["real"] = Samples(tuple(chosen))
    return kinds


def lookups(model: onnx.ModelProto) -> dict[str, int]:
    """How many entries the tables have that a graph looks up with its integer inputs, by input; the smallest each."""
    constants = initializers(model.graph)
    origin = {value.name: value.name for value in model.graph.input}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Flatten", "Expand"}:
            if node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in origin:
            axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
            name, size = origin[node.input[1]], constants[node.input[0]].dims[axis]
            found[name] = min(size, found.get(name, size))
    return found


def _random(spec: TensorSpec, entries: int, count: int, rng: np.random.Generator) -> NDArray[Any]:
    shape = (count, *(int(size) for size in spec.shape[1:]))
    if spec.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, 2 if spec.dtype == "bool" else entries, shape).astype(spec.dtype)


def _pictures(
    preprocess: Preprocess, images: NDArray[np.uint8] | None, count: int, rng: np.random.Generator
) -> dict[str, Samples]:
    shape = (preprocess.height, preprocess.width, preprocess.channels)
    kinds = {"random": rng.integers(0, 256, (count, *shape), np.uint8)}
    if images is not None:
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise InputError(
                f"real pictures must be uint8 [N, {', '.join(map(str, shape))}], got {images.dtype} "
                f"{list(images.shape)}",
                "prepare them with the model's preprocessing",
            )
        kinds["real"] = images[np.arange(count) % len(images)]
    return {kind: Samples((preprocess.normalise(pixels),), pixels) for kind, pixels in kinds.items()}
