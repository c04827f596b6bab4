"""Quantised weights as float constants beside the graphs: a graph is placed again and again, a weight made once."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.e4m3 import decode
from calibration.editor import Editor
from calibration.parallel import over_cores
from calibration.weights import Floats, parts
from export.light import NO_ARRAYS, Arrays, copy_into, is_stub, stub, values_of
from export.onnxlib import onnx
from export.structure import skeleton, tensor_bytes, unique

_LARGE = 4096
"""Bytes: a smaller constant stays in the graphs."""


class WeightStore:
    """Large constants, a copy of each that all sessions share: graphs have stubs of them (:mod:`export.light`).

    A weight becomes an array when the first graph that needs it is run: most graphs need only quantised ones.

    Args:
        given: the values of what is a stub already in the graph that it takes.

    Attributes:
        arrays: the constants so far, by name.
        folded: by weight and by how it was quantised the name of what it is dequantised to, and its scales.
    """

    def __init__(self, given: Arrays = NO_ARRAYS) -> None:
        self._given = given
        self._waiting: dict[str, onnx.TensorProto] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.folded: dict[tuple[Any, ...], tuple[str, Floats]] = {}

    def take(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of ``model`` with stubs for its large float32 constants of two and more dimensions.

        Vectors, such as biases, and what is small stay inside. ``model`` is held, and must not be changed, until all
        of its constants are arrays.
        """
        light = skeleton(model)
        for tensor in model.graph.initializer:
            if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or tensor_bytes(tensor) <= _LARGE:
                copy_into(light.graph.initializer.add(), tensor, self._given)
            else:
                self._waiting[tensor.name] = tensor
                light.graph.initializer.append(stub(tensor.name, np.dtype(np.float32), tensor.dims))
        return light

    def values(self, name: str) -> NDArray[Any]:
        """The values of a constant that a stub stands for."""
        if name in self._waiting:
            return values_of(self._waiting[name], self._given)
        return self.arrays[name]

    def weights(self, model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        """The arrays that ``model`` has stubs of."""
        names = [tensor.name for tensor in model.graph.initializer if is_stub(tensor)]
        for name in names:
            if name in self._waiting:
                self.arrays[name] = self.values(name)
                del self._waiting[name]
        return {name: self.arrays[name] for name in names}

    def fold(self, name: str, codes: NDArray[Any], scales: Floats, axis: int) -> None:
        """Keep what DequantizeLinear makes of symmetric 8-bit values: ``float32(codes) * scale``, in float32.

        Args:
            name: of the constant.
            codes: int8, or the bits of FP8 as uint8.
            scales: float32 [channels].
            axis: the dimension of the channels.
        """
        # Mapped small pages: numpy asks for huge ones, which are slower to come by than what was freed just before.
        memory = mmap.mmap(-1, max(1, codes.size * np.dtype(np.float32).itemsize))
        self.arrays[name] = folded = np.frombuffer(memory, np.float32, codes.size).reshape(codes.shape)
        source, result = np.moveaxis(codes, axis, 0), np.moveaxis(folded, axis, 0)
        shape = [-1] + [1] * (codes.ndim - 1)

        def dequantise(part: slice) -> None:
            numbers = decode(source[part]) if codes.dtype == np.uint8 else source[part]
            np.multiply(numbers, scales[part].reshape(shape), out=result[part], dtype=np.float32)

        over_cores(dequantise, parts(len(source), codes.size))


class FoldingEditor(Editor):
    """An editor whose quantised weights are float constants: each is quantised once, however many graphs it is in.

    Args:
        model: the FP32 graph, its large constants in ``store``.
        store: where they are, and where quantised ones go.
        weight_clip: how the ranges of weights are chosen.
        precision: what they are quantised to.
    """

    def __init__(
        self, model: onnx.ModelProto, store: WeightStore, *, weight_clip: str = "max", precision: str = "int8"
    ) -> None:
        super().__init__(model, weight_clip=weight_clip, precision=precision)
        self._store = store

    def values(self, constant: str) -> NDArray[Any]:
        """The values of a constant of the source graph."""
        tensor = self._constants[constant]
        if is_stub(tensor):
            return self._store.values(constant)
        return super().values(constant)

    def weight(self, tensor: str, axis: int, **options: Any) -> tuple[str, Floats]:
        """The constant that a quantised weight is dequantised to, and its scales."""
        least = options.get("least")
        key = (tensor, axis, *sorted((k, v) for k, v in options.items() if k != "least"))
        key = (*key, None if least is None else least.tobytes())
        if key not in self._store.folded:
            codes, scales = self.codes(tensor, axis, **options)
            name = unique(f"{tensor}.dequantized", self._taken | set(self._store.arrays))
            self._store.fold(name, codes, scales, axis)
            self._store.folded[key] = name, scales
        name, scales = self._store.folded[key]
        self._new[name] = stub(name, scales.dtype, self.shape(tensor))
        self._taken.add(name)
        return name, scales

    def constant(self, values: Any, name: str) -> str:
        """A new constant inside the graph, whatever its size: only weights are in the store."""
        return self._keep(onnx.numpy_helper.from_array(np.asarray(values), name))

    def finish(self) -> onnx.ModelProto:
        """The graph, with stubs of what is in the store."""
        return self.split().model
