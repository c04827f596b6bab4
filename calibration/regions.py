"""Where the channels of an activation can be scaled without changing what the graph computes.

A region begins at the output of a convolution or matrix product and ends at those that read it. Between them are only
operators that give ``f · y`` for ``f · x`` with any ``f > 0`` and don't mix channels. Then a channel may be divided
by a factor, with the producer's weights and bias of that channel, where the readers' weights for it are multiplied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from calibration.ranges import AVERAGING, Ranges
from calibration.rewrite import constants, uses
from engines.tensors import TensorSpec
from export.onnxlib import onnx
from export.structure import attribute, tensor_specs

_ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"})
_POOLING = AVERAGING | {"MaxPool", "GlobalMaxPool"}
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Reader:
    """A convolution or matrix product at the end of a region.

    Attributes:
        node: the node, which reads the region as its first input.
        repeats: how many of its input channels, one after the other, hold one channel of the region: 1, or
            height · width of what was flattened.
    """

    node: onnx.NodeProto
    repeats: int


@dataclass(frozen=True)
class Region:
    """Tensors whose channels are scaled together.

    Attributes:
        name: the group (:mod:`calibration.ranges`) that the first reader reads.
        producer: the convolution or matrix product that makes the first tensor.
        channels: how many.
        readers: in graph order; never none.
    """

    name: str
    producer: onnx.NodeProto
    channels: int
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class _Place:
    """Where a tensor has its channels: along ``axis``, ``repeats`` places for each."""

    axis: int
    repeats: int


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    """Every region of a graph, by name, in graph order."""
    finder = _Finder(model)
    found = (finder.region(node) for node in model.graph.node)
    return {region.name: region for region in found if region is not None}


class _Finder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._ranges = Ranges(model)
        self._specs = tensor_specs(model)
        self._constants = constants(model.graph)
        self._uses = uses(model.graph)
        self._order = {id(node): index for index, node in enumerate(model.graph.node)}

    def region(self, producer: onnx.NodeProto) -> Region | None:
        """The region that begins at a node; None where there is none."""
        if not self._ranges.is_weighted(producer) or not self._is_own(producer):
            return None
        start = producer.output[0]
        places = {start: _Place(len(self._shape(start)) - 1 if producer.op_type == "MatMul" else 1, 1)}
        readers: list[Reader] = []
        waiting = [start]
        for tensor in waiting:
            users = self._ranges.consumers.get(tensor, [])
            if self._uses[tensor] != len(users):  # a caller of the graph, or a graph inside a node, reads it too
                return None
            for user in users:
                if self._reads(user, tensor, places[tensor]):
                    readers.append(Reader(user, places[tensor].repeats))
                    continue
                place = self._through(user, tensor, places[tensor])
                if place is None:
                    return None
                places[user.output[0]] = place
                waiting.append(user.output[0])
        readers.sort(key=lambda reader: self._order[id(reader.node)])
        group = self._ranges.group(readers[0].node.input[0]) if readers else None
        if group is None or places[group.tap].axis != 1:  # where its channels are measured
            return None
        return Region(group.name, producer, self._channels(producer), tuple(readers))

    def _shape(self, tensor: str) -> tuple[int | str, ...]:
        return self._specs.get(tensor, TensorSpec(tensor, "float32", ())).shape

    def _is_own(self, node: onnx.NodeProto) -> bool:
        """Whether a weighted node's weights and bias are constants that no other node reads."""
        own = [name for name in node.input[1:] if name]
        if not all(name in self._constants and self._uses[name] == 1 for name in own):
            return False
        return node.op_type != "MatMul" or len(self._constants[node.input[1]].dims) > 1

    def _channels(self, producer: onnx.NodeProto) -> int:
        """How many output channels a weighted node has."""
        dims = self._constants[producer.input[1]].dims
        if producer.op_type == "Conv" or (producer.op_type == "Gemm" and attribute(producer, "transB", 0)):
            return int(dims[0])
        return int(dims[1] * attribute(producer, "group", 1) if producer.op_type == "ConvTranspose" else dims[-1])

    def _reads(self, node: onnx.NodeProto, tensor: str, place: _Place) -> bool:
        """Whether ``node`` is a weighted one that sums over the channels of ``tensor``, with weights of its own."""
        if not self._ranges.is_weighted(node) or node.input[0] != tensor:
            return False
        weight = node.input[1]
        if weight not in self._constants or self._uses[weight] != 1:
            return False
        if node.op_type == "MatMul":
            return place.axis == len(self._shape(node.input[0])) - 1
        return place.axis == 1 and (node.op_type == "Gemm" or place.repeats == 1)

    def _through(self, node: onnx.NodeProto, tensor: str, place: _Place) -> _Place | None:
        """Where the channels of ``tensor`` are behind ``node``; None where they can't be scaled through it."""
        if node.input[0] != tensor or any(name and self._uses[name] for name in node.output[1:]):  # indices, a mask
            return None
        if node.op_type in _ELEMENTWISE:
            return place
        if node.op_type in _POOLING or (node.op_type == "Resize" and self._keeps_channels(node)):
            return place if place == _Place(1, 1) else None
        if node.op_type == "Transpose":
            order = attribute(node, "perm")
            return _Place(list(order).index(place.axis), place.repeats) if order else None
        if node.op_type in _RESHAPING and place.axis == 1:
            return _reshaped(self._shape(node.input[0]), self._shape(node.output[0]), place)
        return None

    def _keeps_channels(self, node: onnx.NodeProto) -> bool:
        """Whether a Resize repeats values within channels and makes up none."""
        scales = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        return (
            attribute(node, "mode", "nearest") == "nearest"
            and attribute(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
            and not attribute(node, "axes")
            and scales is not None
            and onnx.numpy_helper.to_array(scales)[:2].tolist() == [1, 1]
        )


def _reshaped(before: Sequence[int | str], after: Sequence[int | str], place: _Place) -> _Place | None:
    """Channels along axis 1 in another shape; None where they aren't along axis 1 again.

    Both shapes hold a sample's values in the same order, so a channel is a run of equally many of them in both.
    """
    old = [size for size in before[1:] if isinstance(size, int)]
    new = [size for size in after[1:] if isinstance(size, int)]
    if (
        len(before) < 2
        or len(old) != len(before) - 1
        or len(new) != len(after) - 1
        or math.prod(old) != math.prod(new)
    ):
        return None
    run, step = place.repeats * math.prod(old[1:]), math.prod(new[1:])
    return _Place(1, run // step) if new and step and run % step == 0 else None
