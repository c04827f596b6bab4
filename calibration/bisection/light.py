"""Graphs whose large weights lie beside them, as arrays: many graphs and sessions share one copy of each.

They are made by :func:`calibration.light.lighten`. ONNX Runtime takes the arrays where they lie
(:class:`calibration.as_written.AsWritten`), a library that reads files gets a file of them (:func:`write_light`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.foreign_scales import Constants
from engines.files import atomic_file
from export.light import Arrays, is_stub
from export.onnxlib import onnx

_PAGE = 4096
"""Weights in files are aligned to pages, so that readers may map them."""


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
        return {tensor.name: self.arrays[tensor.name] for tensor in self.model.graph.initializer if is_stub(tensor)}


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
            if not is_stub(tensor):
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
