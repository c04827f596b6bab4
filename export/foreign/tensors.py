"""What goes in and out of a foreign graph: its inputs as declared, its batch, and values to try it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError, InputError
from engines.tensors import TensorSpec
from export.foreign.edit import Constants, set_shape
from export.foreign.running import Arrays
from export.graph import inputs
from export.onnxlib import onnx
from export.sources.description import Description
from export.structure import attribute, initializers

Layout = Literal["nchw", "nhwc"]

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_FLOATS = {"float16", "bfloat16", "float64"}


@dataclass(frozen=True)
class Given:
    """One input of the file, and how the master's is made into it.

    Attributes:
        name: of both.
        dtype: of the file's.
        shape: the master's, without the batch.
        perm: how the master's axes become the file's; none where they are the same.
        values: the number of rows in the smallest table that the input is looked up in; 2 where it isn't.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    perm: tuple[int, ...] = ()
    values: int = 2

    @property
    def spec(self) -> TensorSpec:
        """The master's input."""
        return TensorSpec(self.name, "float32" if self.dtype in _FLOATS else self.dtype, ("batch", *self.shape))

    @property
    def original_shape(self) -> tuple[int, ...]:
        """The file's shape, without the batch."""
        full = (1, *self.shape)
        return tuple(full[axis] for axis in self.perm)[1:] if self.perm else self.shape

    def original(self, values: NDArray[Any]) -> NDArray[Any]:
        """What the file takes for the master's ``values``."""
        if self.perm:
            values = values.transpose(self.perm)
        return np.ascontiguousarray(values.astype(self.dtype, copy=False))

    def random(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Values for ``count`` samples: standard normal floats, any byte, valid rows of a table."""
        shape, dtype = (count, *self.shape), self.spec.dtype
        if dtype == "float32":
            return rng.standard_normal(shape).astype(np.float32)
        if dtype == "uint8" and self.values == 2:
            return rng.integers(0, 256, shape, np.uint8)
        return rng.integers(0, self.values, shape).astype(dtype)


@dataclass(frozen=True)
class Takes:
    """What a file takes.

    Attributes:
        inputs: in its order.
        batch: the batch that it is exported for; None where that varies.
    """

    inputs: tuple[Given, ...]
    batch: int | None

    def random(self, count: int, seed: int) -> Arrays:
        """Random values for the master."""
        rng = np.random.default_rng(seed)
        return {item.name: item.random(count, rng) for item in self.inputs}

    def original(self, feeds: Arrays) -> Arrays:
        """What the file takes for the master's feeds."""
        return {item.name: item.original(feeds[item.name]) for item in self.inputs}


def read_inputs(model: onnx.ModelProto, description: Description, layout: Layout, name: str) -> Takes:
    """The inputs of a file, each with its batch first and all other sizes known.

    Args:
        model: as it was read; constants aren't among its inputs any more.
        description: what the user says of its sizes.
        layout: how its pictures lie.
        name: how errors call it.

    Raises:
        GraphError: an input has no batch, or two have different ones, or nothing says the sizes.
        InputError: the description says other sizes than the graph.
    """
    specs = inputs(model)
    if not specs:
        raise GraphError(f"{name} takes nothing: it has no inputs", "export the network with its input")
    said = {spec.name: spec for spec in description.inputs}
    if unknown := sorted(set(said) - {spec.name for spec in specs}):
        raise InputError(f"{name} has no input '{unknown[0]}'", f"its inputs are {'; '.join(map(str, specs))}")
    tables = _tables(model.graph)
    batches: dict[str, int | None] = {}
    found = []
    for value, spec in zip((item for item in model.graph.input), specs, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            raise GraphError(
                f"input '{spec.name}' of {name} has no shape", "export it with fixed sizes but the batch"
            )
        if not spec.shape:
            raise GraphError(
                f"input '{spec.name}' of {name} is a single number, without a batch",
                "export the network with that number as a constant",
            )
        first = spec.shape[0]
        batches[spec.name] = first if isinstance(first, int) and first > 0 else None  # TensorFlow's -1 is free
        sizes = _sizes(spec, said.get(spec.name), description, layout, name)
        perm: tuple[int, ...] = ()
        if _is_picture(spec, said) and spec.dtype == "uint8" and layout == "nchw" and sizes[0] in {1, 3}:
            if sizes[-1] not in {1, 3}:
                perm, sizes = _TO_FIRST, (*sizes[1:], sizes[0])
        elif _is_picture(spec, said) and layout == "nhwc" and spec.dtype != "uint8":
            perm, sizes = _TO_LAST, (sizes[-1], *sizes[:-1])
        found.append(Given(spec.name, spec.dtype, sizes, perm, tables.get(spec.name, 2)))
    fixed = {size for size in batches.values() if size is not None}
    if len(fixed) > 1:
        shown = ", ".join(f"'{key}' {size}" for key, size in batches.items())
        raise GraphError(f"the inputs of {name} have different first dimensions: {shown}", "export it batch first")
    return Takes(tuple(found), fixed.pop() if fixed else None)


def _is_picture(spec: TensorSpec, said: dict[str, TensorSpec]) -> bool:
    return len(spec.shape) == 4 and not said


def _sizes(
    spec: TensorSpec, said: TensorSpec | None, description: Description, layout: Layout, name: str
) -> tuple[int, ...]:
    """All dimensions but the batch, as numbers."""
    wanted: list[int | str | None] = [None] * (len(spec.shape) - 1)
    remedy = f"give its size: --input {spec.name}=SIZExSIZE"
    if said is not None:
        if len(said.shape) != len(spec.shape):
            raise InputError(f"--input says {said}, but {name} takes {spec}", "give as many sizes as it has")
        kind = "float32" if spec.dtype in _FLOATS else spec.dtype
        if said.dtype != kind:
            raise InputError(f"--input says {said}, but {name} takes {spec}", f"write {spec.name}=...:{kind}")
        wanted = list(said.shape[1:])
    elif len(spec.shape) == 4:
        remedy = "give its size: --input-size 224"
        last = layout == "nhwc" or (spec.dtype == "uint8" and spec.shape[-1] in {1, 3})
        if (asked := description.input_size) is not None:
            sides = (asked, asked) if isinstance(asked, int) else asked
            wanted = [*sides, None] if last else [None, *sides]
        if description.channels is not None:
            wanted[-1 if last else 0] = description.channels
    sizes = []
    for have, want in zip(spec.shape[1:], wanted, strict=True):
        if isinstance(have, int) and isinstance(want, int) and have != want and have >= 0:
            raise InputError(
                f"{name} takes {spec}, not a size of {want} where it has {have}",
                "leave that option out: the graph says its size",
            )
        size = have if isinstance(have, int) and have >= 0 else want
        if not isinstance(size, int):
            raise GraphError(f"the size '{have}' of {spec} varies in {name}, and only the batch may", remedy)
        if size < 1:
            raise GraphError(f"{name} takes {spec}, which is empty", "export it with sizes of 1 or more")
        sizes.append(size)
    return tuple(sizes)


def _tables(graph: onnx.GraphProto) -> dict[str, int]:
    """By input the number of rows of the smallest constant that it is looked up in."""
    constants = initializers(graph)
    found: dict[str, int] = {}
    alias = {value.name: value.name for value in graph.input}
    for node in graph.node:
        if node.op_type in {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze"} and node.input[0] in alias:
            alias[node.output[0]] = alias[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in alias:
            dims = constants[node.input[0]].dims
            rows = int(dims[int(attribute(node, "axis", 0))])
            source = alias[node.input[1]]
            found[source] = min(rows, found.get(source, rows))
    return found


def loosen(model: onnx.ModelProto, takes: Takes) -> None:
    """Declare inputs with a free batch and known sizes in the file's layout; forget claimed shapes of all else."""
    sizes = {item.name: item.original_shape for item in takes.inputs}
    for value in model.graph.input:
        set_shape(value, ("batch", *sizes[value.name]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def channels_first(model: onnx.ModelProto, takes: Takes, changes: list[str]) -> None:
    """Let pictures come as the master takes them; a Transpose makes them what the file takes."""
    for item in takes.inputs:
        if not item.perm:
            continue
        value = next(one for one in model.graph.input if one.name == item.name)
        set_shape(value, ("batch", *item.shape))
        result = Constants(model.graph).tensor(f"{item.name}.laid_out")
        for node in model.graph.node:
            for place, read in enumerate(node.input):
                if read == item.name:
                    node.input[place] = result
        node = onnx.helper.make_node("Transpose", [item.name], [result], result, perm=list(item.perm))
        model.graph.node.insert(0, node)
        changes.append(f"layout: input '{item.name}' takes {item.spec}, and is transposed inside")


def declare_outputs(model: onnx.ModelProto, shapes: dict[str, Sequence[int | str | None]]) -> None:
    """Declare the outputs' shapes."""
    for value in model.graph.output:
        if value.name in shapes:
            set_shape(value, shapes[value.name])
