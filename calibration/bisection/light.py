"""Graphs whose large weights lie beside them, as arrays: many graphs and sessions share one copy of each.

In the graph a weight is a stub, an initializer with external data that is nowhere. Whatever runs the graph is given
the arrays: ONNX Runtime takes them where they lie (:class:`calibration.as_written.AsWritten`), a library that reads
files gets a file of them (:func:`write_light`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.foreign_scales import Constants
from engines.files import atomic_file
from export.onnxlib import onnx
from export.structure import LIGHT, consumers, skeleton, tensor_bytes

Arrays = Mapping[str, NDArray[Any]]

_PAGE = 4096
"""Weights in files are aligned to pages, so that readers may map them."""

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
_STORED = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def lighten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy of a graph with stubs, and the arrays by name.

    Only weights whose values say nothing of the graph's structure are taken out: floats, and 8-bit integers that are
    dequantised.
    """
    users = consumers(model.graph)
    result, arrays = skeleton(model), dict[str, NDArray[Any]]()
    for tensor in model.graph.initializer:
        readers = {node.op_type for node in users.get(tensor.name, [])}
        plain = tensor.data_type in _FLOATS or (tensor.data_type in _STORED and readers == {"DequantizeLinear"})
        if plain and tensor_bytes(tensor) > LIGHT:
            arrays[tensor.name] = onnx.numpy_helper.to_array(tensor)
            result.graph.initializer.append(stub(tensor.name, arrays[tensor.name]))
        else:
            result.graph.initializer.add().CopyFrom(tensor)
    return result, arrays


def stub(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """The initializer that stands for an array."""
    tensor = onnx.TensorProto(
        name=name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.dims.extend(values.shape)
    for key, value in {"location": "memory", "offset": "0", "length": str(values.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


@dataclass(frozen=True, eq=False)
class LightGraph:
    """A graph and its large weights.

    Attributes:
        model: the graph, with stubs.
        arrays: by name, at least those that it has stubs of.
        same: further names of its outputs, for what two names are asked of and is computed once.
    """

    model: onnx.ModelProto
    arrays: Arrays
    same: Mapping[str, str] = field(default_factory=dict)

    def used(self) -> dict[str, NDArray[Any]]:
        """The arrays that the graph has stubs of."""
        external = onnx.TensorProto.EXTERNAL
        names = [tensor.name for tensor in self.model.graph.initializer if tensor.data_location == external]
        return {name: self.arrays[name] for name in names}


def write_light(graph: LightGraph, path: Path) -> None:
    """Write a graph and the file of its weights beside it, for a library that reads files.

    Args:
        graph: its stubs become references to the file.
        path: where to.

    Raises:
        InputError: the folder isn't writable, or the disk is full.
    """
    model, arrays = graph.model, graph.arrays
    beside = path.with_name(f"{path.name}.data")
    with atomic_file(beside) as file:
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            file.write(bytes(-file.tell() % _PAGE))
            values = np.ascontiguousarray(arrays[tensor.name])
            place = {"location": beside.name, "offset": str(file.tell()), "length": str(values.nbytes)}
            del tensor.external_data[:]
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            file.write(values.reshape(-1).view(np.uint8).data)
    with atomic_file(path) as file:
        file.write(model.SerializeToString())


class LightConstants(Constants):
    """The constants of a light graph.

    Args:
        model: the graph.
        arrays: of its stubs.
    """

    def __init__(self, model: onnx.ModelProto, arrays: Arrays) -> None:
        super().__init__(model)
        self._arrays = arrays

    def stored(self, tensor: str) -> NDArray[Any] | None:
        """A large constant as it is stored; None for others."""
        return self._arrays.get(tensor)

    def values(self, tensor: str) -> NDArray[np.float32]:
        """The values of a constant as float32; those of a large one in float32 aren't copied, nor to be changed."""
        found = self._arrays.get(tensor)
        return super().values(tensor) if found is None else found.astype(np.float32, copy=False)
