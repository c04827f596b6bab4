"""What a deserialised plan says of itself: its inputs, outputs and optimisation profiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import UnsupportedError
from engines.plan_dtypes import PLAN_DTYPES
from engines.sessions.plan_profiles import ProfileRange, Shape
from engines.tensors import TensorSpec


def read_tensors(trt: Any, engine: Any, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and the outputs of an engine.

    Args:
        trt: the library's module.
        engine: an ``ICudaEngine``.
        path: of the plan, for messages.

    Raises:
        UnsupportedError: a tensor is one that a session can't feed.
    """
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise UnsupportedError(
                f"the tensor '{name}' of '{path.name}' is a shape on the host", "export without shape inputs"
            )
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise UnsupportedError(
                f"the tensor '{name}' of '{path.name}' has a vectorised layout",
                "build it with linear inputs and outputs",
            )
        spec = _spec(name, engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name)), path)
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(spec)
    return tuple(inputs), tuple(outputs)


def read_profiles(engine: Any, inputs: Sequence[TensorSpec]) -> list[ProfileRange]:
    """The optimisation profiles of an engine with these inputs; one of fixed shapes where it has none."""
    profiles = []
    for index in range(max(engine.num_optimization_profiles, 1)):
        ranges = {spec.name: _range(engine, spec, index) for spec in inputs}
        minimum, optimum, maximum = ({name: shapes[i] for name, shapes in ranges.items()} for i in range(3))
        profiles.append(ProfileRange(minimum, optimum, maximum))
    return profiles


def _range(engine: Any, spec: TensorSpec, profile: int) -> tuple[Shape, Shape, Shape]:
    fixed = tuple(size for size in spec.shape if isinstance(size, int))
    if len(fixed) == len(spec.shape):
        return fixed, fixed, fixed
    low, best, high = engine.get_tensor_profile_shape(spec.name, profile)
    return tuple(map(int, low)), tuple(map(int, best)), tuple(map(int, high))


def _spec(name: str, kind: str, shape: tuple[int, ...], path: Path) -> TensorSpec:
    if kind not in PLAN_DTYPES:
        raise UnsupportedError(
            f"the tensor '{name}' of '{path.name}' is {kind}, which numpy can't hold",
            "export with float or integer inputs and outputs",
        )
    # A dimension of -1 varies; only the first is the batch, and it is the same one in every tensor.
    dims = (
        (("batch" if axis == 0 else f"{name}.{axis}") if size < 0 else int(size)) for axis, size in enumerate(shape)
    )
    return TensorSpec(name, PLAN_DTYPES[kind], tuple(dims))
