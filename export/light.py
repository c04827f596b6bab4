"""Graphs without their large weights, which lie beside them as arrays: nobody parses, copies or writes those again.

In the graph a weight is a stub, an initializer with external data that is nowhere. What needs its values is given the
arrays. Where a step changes a weight, the new one is an initializer as any other: only of stubs the arrays tell.
"""

import math
import mmap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.files import digest_bytes, digest_file
from export.graph import INLINE_LIMIT, check_loaded, load_graph, save_graph, weight_bytes, write_graph
from export.onnxlib import onnx
from export.raw_places import Places, raw_places, with_raw, without_raw
from export.stand_ins import is_sound
from export.structure import LIGHT, skeleton, tensor_bytes

Arrays = Mapping[str, NDArray[Any]]

NO_ARRAYS: Arrays = {}


@dataclass(frozen=True)
class SplitGraph:
    """A graph, and the arrays of those weights that are stubs in it.

    Attributes:
        model: the graph; it may have no stubs at all.
        arrays: by name; they may be read-only, and needn't be aligned.
    """

    model: onnx.ModelProto
    arrays: Arrays = field(default_factory=dict)

    def whole(self) -> onnx.ModelProto:
        """The graph with all that it needs inside; itself if it has no stubs."""
        if not any(map(is_stub, self.model.graph.initializer)):
            return self.model
        copy = skeleton(self.model)
        for tensor in self.model.graph.initializer:
            copy_into(copy.graph.initializer.add(), tensor, self.arrays)
        return copy


def load_light(path: Path | str) -> SplitGraph:
    """What :func:`export.graph.load_graph` gives, its large float32 weights mapped from the file and not copied.

    A graph that keeps weights in other files has no stubs for those.

    Raises:
        ToolkitError: as :func:`export.graph.load_graph` says; all of its checks are made.
    """
    path = Path(path)
    if (parsed := _parsed(path)) is None:
        return SplitGraph(load_graph(path))  # which says what is wrong, if anything is
    model, data, places = parsed
    arrays = {}
    for tensor in model.graph.initializer:
        start, end = places.get(tensor.name, (0, 0))
        if end - start <= LIGHT:
            continue
        fits = is_sound(tensor, end - start) and tensor_bytes(tensor) == end - start
        if tensor.data_type == onnx.TensorProto.FLOAT and fits:
            values = np.frombuffer(data, np.dtype("<f4"), (end - start) // 4, start)
            arrays[tensor.name] = values.reshape(tuple(tensor.dims))
        else:
            tensor.raw_data = data[start:end]
    check_loaded(model, path, len(data), places)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            _make_stub(tensor)
    return SplitGraph(model, arrays)


def _parsed(path: Path) -> tuple[onnx.ModelProto, mmap.mmap, Places] | None:
    """A graph without its large initializers' raw bytes, its file, and where they lie; None where that can't be."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(data) >= INLINE_LIMIT:
            return None
        places = raw_places(data)
        model = onnx.ModelProto()
        model.ParseFromString(without_raw(data, (place for place in places.values() if place[1] - place[0] > LIGHT)))
    except Exception:  # protobuf implementations raise different classes
        return None
    return model, data, places


def save_light(graph: SplitGraph, path: Path) -> str:
    """Write the file that :func:`export.graph.save_graph` writes of the whole graph, which is made nowhere else.

    Returns:
        ``sha256:<hex>`` of the file, digested while it is written.

    Raises:
        InputError: as :func:`export.graph.save_graph` says.
    """
    if weight_bytes(graph.model) > INLINE_LIMIT:
        save_graph(graph.whole(), path)
        return digest_file(path)
    copy, contents = onnx.ModelProto(), dict[str, memoryview]()
    copy.CopyFrom(graph.model)
    for tensor in copy.graph.initializer:
        if is_stub(tensor):
            _make_plain(tensor, b"")
            contents[tensor.name] = np.ascontiguousarray(graph.arrays[tensor.name]).reshape(-1).view(np.uint8).data
    parts = with_raw(copy.SerializeToString(), contents)
    with ThreadPoolExecutor(1, "digesting") as pool:
        digest = pool.submit(digest_bytes, *parts)
        write_graph(parts, path)
        return digest.result()


def stub(name: str, dtype: np.dtype[Any], shape: Iterable[int]) -> onnx.TensorProto:
    """The initializer that stands for an array."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(dtype))
    tensor.dims.extend(shape)
    _make_stub(tensor)
    return tensor


def is_stub(tensor: onnx.TensorProto) -> bool:
    """Whether an array stands beside the graph for this initializer."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def values_of(tensor: onnx.TensorProto, arrays: Arrays) -> NDArray[Any]:
    """The values of a constant, a stub or not; not to be written to."""
    return arrays[tensor.name] if is_stub(tensor) else np.asarray(onnx.numpy_helper.to_array(tensor))


def copy_into(target: onnx.TensorProto, tensor: onnx.TensorProto, arrays: Arrays) -> None:
    """Make ``target`` the same constant with its values inside."""
    target.CopyFrom(tensor)
    if is_stub(tensor):
        _make_plain(target, np.ascontiguousarray(arrays[tensor.name]).tobytes())


def _make_plain(tensor: onnx.TensorProto, raw: bytes) -> None:
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    tensor.raw_data = raw


def _make_stub(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for key, value in {"location": "memory", "offset": "0", "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
