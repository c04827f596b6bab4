"""ONNX Runtime's own values: tensors bound on a device, and BF16, which numpy lacks."""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.errors import UnsupportedError
from engines.optional import require
from engines.sessions.base import StageTimes
from engines.tensors import Array, TensorSpec

_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16


class DeviceBinding:
    """Runs a session with its inputs and outputs on its device.

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
