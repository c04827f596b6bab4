"""Quantised weights as float constants in a file: what a graph needs to be placed again and again at little cost."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.e4m3 import decode
from calibration.editor import Editor
from calibration.weights import Floats
from export.onnxlib import onnx
from export.structure import skeleton, tensor_bytes

_PAGE = 4096


class WeightStore:
    """Large constants in one file that ONNX Runtime and numpy map; graphs refer to them by stubs.

    A weight comes into the file when the first graph that needs it is written: most graphs need only quantised ones.

    Args:
        path: the file, which is created. Graphs that refer to it belong into its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._waiting: dict[str, onnx.TensorProto] = {}
        self._written: dict[str, onnx.TensorProto] = {}
        self.folded: dict[tuple[Any, ...], tuple[onnx.TensorProto, Floats]] = {}
        path.touch()

    def take(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of ``model`` with stubs for its large constants of two and more dimensions.

        Vectors, such as biases, and what is small stay inside. ``model`` is held, and must not be changed, until all
        of its constants are in the file.
        """
        light = skeleton(model)
        for tensor in model.graph.initializer:
            if len(tensor.dims) < 2 or tensor_bytes(tensor) <= _PAGE:
                light.graph.initializer.add().CopyFrom(tensor)
            else:
                self._waiting[tensor.name] = tensor
                light.graph.initializer.append(_stub(tensor))
        return light

    def values(self, name: str) -> NDArray[Any]:
        """The values of a constant that a stub stands for."""
        if name in self._waiting:
            tensor = self._waiting[name]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return np.frombuffer(_bytes(tensor), dtype).reshape(tuple(tensor.dims))
        stub = self._written[name]
        place = {item.key: item.value for item in stub.external_data}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(stub.data_type)
        return np.memmap(self._path, dtype, "r", int(place["offset"]), tuple(stub.dims))

    def complete(self, model: onnx.ModelProto) -> None:
        """See that every constant that ``model`` has a stub for is in the file, and let the stubs say where."""
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and not tensor.external_data:
                if tensor.name in self._waiting:
                    self._written[tensor.name] = self._put(tensor, [_bytes(self._waiting.pop(tensor.name))])
                tensor.CopyFrom(self._written[tensor.name])

    def fold(self, name: str, stored: onnx.TensorProto, scales: Floats, axis: int) -> onnx.TensorProto:
        """Put what DequantizeLinear makes of symmetric 8-bit values into the file: ``float32(stored) * scale``."""
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=stored.dims)
        fp8 = stored.data_type == onnx.TensorProto.FLOAT8E4M3FN
        codes = np.frombuffer(stored.raw_data, np.uint8 if fp8 else np.int8).reshape(tuple(stored.dims))
        shape = [-1 if index == axis else 1 for index in range(codes.ndim)]
        steps = np.broadcast_to(scales.reshape(shape), codes.shape)
        parts = zip(codes, steps, strict=True)
        return self._put(tensor, ((decode(a) if fp8 else a.astype(np.float32)) * b for a, b in parts))

    def _put(self, tensor: onnx.TensorProto, parts: Any) -> onnx.TensorProto:
        stub = _stub(tensor)
        with self._path.open("ab") as file:
            file.write(bytes(-self._end % _PAGE))  # whole pages, so that they can be mapped
            start = file.tell()
            for part in parts:
                file.write(part)
            self._end = file.tell()
        place = {"location": self._path.name, "offset": str(start), "length": str(self._end - start)}
        for key, value in place.items():
            stub.external_data.add(key=key, value=value)
        return stub


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
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._store.values(constant)
        return super().values(constant)

    def weight(self, tensor: str, axis: int, **options: Any) -> tuple[str, Floats]:
        """The constant that a quantised weight is dequantised to, and its scales."""
        least = options.get("least")
        key = (tensor, axis, *sorted((k, v) for k, v in options.items() if k != "least"))
        key = (*key, None if least is None else least.tobytes())
        if key not in self._store.folded:
            output, scales = super().weight(tensor, axis, **options)
            index = next(index for index, node in enumerate(self._added) if node.output[0] == output)
            stored, _, _ = (self._new.pop(name) for name in self._added.pop(index).input)
            self._store.folded[key] = self._store.fold(output, stored, scales, axis), scales
        stub, scales = self._store.folded[key]
        self._new[stub.name] = stub
        self._taken.add(stub.name)
        return stub.name, scales


def _stub(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A constant without its values."""
    location = onnx.TensorProto.EXTERNAL
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=location)


def _bytes(tensor: onnx.TensorProto) -> bytes:
    return tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
