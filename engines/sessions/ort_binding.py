"""ONNX Runtime's own values: tensors bound on a device, and BF16, which numpy lacks."""

import ctypes
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.errors import UnsupportedError
from engines.optional import require
from engines.sessions.base import StageTimes
from engines.tensors import Array, TensorSpec

_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16


MAX_BINDINGS = 32
"""Bindings that a stage keeps, the most recently used; each is a list of addresses."""


def shapes_follow(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether every output's shape can be told from the inputs'."""
    known = {size for spec in inputs for size in spec.shape}
    return all(isinstance(size, int) or size in known for spec in outputs for size in spec.shape)


class BoundGraph:
    """A graph on one stage's memory: a :class:`engines.sessions.stage.Program`.

    The library is given the addresses, and doesn't wait for its own work: events do.

    Args:
        runtime: the onnxruntime module.
        session: its session, opened on the pipeline's compute stream.
        inputs, outputs: the session's tensors; the outputs' shapes follow from the inputs'.
        dtypes: numpy's types of them.
        index: number of the GPU.
    """

    def __init__(
        self,
        runtime: Any,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dtypes: "Mapping[str, np.dtype[Any]]",
        index: int,
    ) -> None:
        self._session, self._inputs, self._outputs, self._index = session, inputs, outputs, index
        self._dtypes = dtypes
        self._kinds = {
            spec.name: _ONNX_BFLOAT16 if spec.dtype == "bfloat16" else dtypes[spec.name].type
            for spec in (*inputs, *outputs)
        }
        self._addresses: dict[str, int] = {}
        self._bindings: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._binding: Any = None
        self._options = runtime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """Bytes of every tensor for inputs of these shapes."""
        everything = {**shapes, **self._output_shapes(shapes)}
        return {name: int(np.prod(shape)) * self._dtypes[name].itemsize for name, shape in everything.items()}

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Take the addresses of the stage's memory."""
        self._addresses = dict(addresses)
        self._bindings.clear()

    def prepare(
        self, shapes: Mapping[str, tuple[int, ...]], direct: Mapping[str, int]
    ) -> Mapping[str, tuple[int, ...]]:
        """Bind tensors of these shapes; gives the outputs' shapes."""
        outputs = self._output_shapes(shapes)
        key = (*shapes.values(), *direct.items())
        if key not in self._bindings:
            self._bindings[key] = self._bound(shapes, outputs, {**self._addresses, **direct})
            while len(self._bindings) > MAX_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        self._binding = self._bindings[key]
        return outputs

    def enqueue(self, stream: Any) -> None:
        """Put the prepared run on the stream."""
        self._session.run_with_iobinding(self._binding, self._options)

    def close(self) -> None:
        """Give back the bindings and the session."""
        self._bindings.clear()
        self._binding = self._session = None

    def _bound(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
    ) -> Any:
        binding = self._session.io_binding()
        for name, shape in shapes.items():
            binding.bind_input(name, "cuda", self._index, self._kinds[name], list(shape), addresses[name])
        for name, shape in outputs.items():
            binding.bind_output(name, "cuda", self._index, self._kinds[name], list(shape), addresses[name])
        return binding

    def _output_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        known: dict[int | str, int] = {}
        for spec in self._inputs:
            known.update(zip(spec.shape, shapes[spec.name], strict=True))
        return {
            spec.name: tuple(size if isinstance(size, int) else known[size] for size in spec.shape)
            for spec in self._outputs
        }


class DeviceBinding:
    """Runs a session with its inputs and outputs on its device, where :class:`BoundGraph` can't.

    The input tensors stay allocated between runs of one shape. Every stage is synchronised, so that the
    host's clock tells them apart; ONNX Runtime synchronises at the end of each run anyway.

    Args:
        runtime: the onnxruntime module.
        session: its session.
        inputs, outputs: the session's tensors.
        device: "cuda:0", as ONNX Runtime names the kind of device and numbers it.

    Raises:
        UnsupportedError: a tensor is BF16, which doesn't cross to the device through numpy.
    """

    def __init__(
        self, runtime: Any, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], device: str
    ) -> None:
        for spec in (*inputs, *outputs):
            if spec.dtype == "bfloat16":
                raise UnsupportedError(
                    f"the tensor '{spec.name}' of the graph is BF16, which can't be bound on {device}",
                    "export with float32 inputs and outputs (the layers between may be BF16)",
                )
        self._runtime, self._session = runtime, session
        self._kind, _, number = device.partition(":")
        self._index = int(number or 0)
        self._names = [spec.name for spec in outputs]
        self._binding = session.io_binding()
        self._values: dict[str, Any] = {}
        self.times: StageTimes | None = None

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Copy in, run, copy out.

        Args:
            arrays: contiguous arrays in the machine's byte order, one an input.

        Returns:
            Arrays that belong to the caller.
        """
        start = time.perf_counter()
        for name, array in arrays.items():
            self._binding.bind_ortvalue_input(name, self._filled(name, array))
        for name in self._names:
            self._binding.bind_output(name, self._kind, self._index)
        # A copy from pageable memory may still be under way, and the session runs on a stream of its own.
        self._binding.synchronize_inputs()
        copied = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        ran = time.perf_counter()
        outputs = dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
        self.times = StageTimes(copied - start, ran - copied, time.perf_counter() - ran)
        return outputs

    def _filled(self, name: str, array: Array) -> Any:
        value = self._values.get(name)
        if value is None or tuple(value.shape()) != array.shape:
            factory = self._runtime.OrtValue.ortvalue_from_shape_and_type
            value = self._values[name] = factory(list(array.shape), array.dtype.type, self._kind, self._index)
        value.update_inplace(array)
        return value


def run_bfloat16(
    runtime: Any, session: Any, arrays: Mapping[str, Array], outputs: Sequence[TensorSpec]
) -> dict[str, Array]:
    """Run on the CPU a graph whose inputs or outputs are BF16 (numpy arrays of ``ml_dtypes.bfloat16``).

    Args:
        runtime: the onnxruntime module.
        session: its session.
        arrays: contiguous arrays, one an input.
        outputs: the specs of the outputs.

    Returns:
        Arrays that belong to the caller.
    """
    bfloat16 = require("ml_dtypes", "A BF16 input or output", "onnxruntime").bfloat16
    make, make_as = runtime.OrtValue.ortvalue_from_numpy, runtime.OrtValue.ortvalue_from_numpy_with_onnx_type
    feeds = {
        name: make_as(array.view(np.uint16), _ONNX_BFLOAT16) if array.dtype == bfloat16 else make(array)
        for name, array in arrays.items()
    }
    values = session.run_with_ort_values([spec.name for spec in outputs], feeds)
    results: dict[str, Array] = {}
    for spec, value in zip(outputs, values, strict=True):
        if spec.dtype != "bfloat16":
            results[spec.name] = value.numpy()
            continue
        raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        results[spec.name] = np.frombuffer(bytearray(raw), bfloat16).reshape(value.shape())
    return results
