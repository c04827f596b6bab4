"""Puts quantised tensors into a copy of a graph: the steps that every target's placement is written in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.e4m3 import quantise_weight_fp8
from calibration.weights import Floats, quantise_weight
from export.light import NO_ARRAYS, Arrays, SplitGraph, stub, values_of
from export.onnxlib import onnx
from export.structure import (
    LIGHT,
    attribute,
    initializers,
    label,
    names,
    remove_unused,
    set_attribute,
    skeleton,
    topological_sort,
    unique,
)


@dataclass(frozen=True)
class Scale:
    """How an activation is quantised: ``round(x / scale) + zero_point``, saturated to its type.

    Attributes:
        scale: the step; for a float type what its 1 stands for.
        zero_point: the quantised value of 0; 0 for a float type.
        dtype: "int8", "uint8", or "float8_e4m3fn".
    """

    scale: float
    zero_point: int = 0
    dtype: str = "int8"


class Editor:
    """A quantised graph in the making.

    Args:
        model: the FP32 graph; it isn't changed.
        weight_clip: how the ranges of weights are chosen (:mod:`calibration.weights`).
        precision: what weights are quantised to: "int8" or "fp8".
        arrays: the values of those of the graph's constants that are stubs (:mod:`export.light`).

    Attributes:
        graph: the new graph: the nodes of ``model`` to be rewired, and what is added to them.
        wide: names of nodes that stay float32 where the remainder of the graph becomes half precision.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        weight_clip: str = "max",
        precision: str = "int8",
        arrays: Arrays = NO_ARRAYS,
    ) -> None:
        self._source, self._arrays = model, arrays
        self._clip, self._precision = weight_clip, precision
        self._model = skeleton(model)
        self.graph = self._model.graph
        self._constants = initializers(model.graph)
        self._constants.update(
            (node.output[0], attribute(node, "value")) for node in model.graph.node if node.op_type == "Constant"
        )
        self._nodes: dict[str, onnx.NodeProto] = {node.output[0]: node for node in self.graph.node}
        for node in self.graph.node:
            node.name = label(node)
        self._makers = {name: node.name for node in self.graph.node for name in node.output}
        self._taken = names(model.graph)
        self.wide: set[str] = set()
        self._new: dict[str, onnx.TensorProto] = {}
        self._large: dict[str, NDArray[Any]] = {}  # the values of those that are stubs
        self._added: list[onnx.NodeProto] = []
        self._stored: dict[tuple[str, Scale], list[str]] = {}
        self._pairs: dict[tuple[str, Scale, bool], str] = {}
        self._weights: dict[tuple[Any, ...], tuple[str, Floats]] = {}

    def node(self, original: onnx.NodeProto) -> onnx.NodeProto:
        """The copy of a node of the source graph; every copy has a name."""
        return self._nodes[original.output[0]]

    @property
    def has_weights(self) -> bool:
        """Whether a weight was quantised so far."""
        return bool(self._weights)

    def is_constant(self, tensor: str) -> bool:
        """Whether the source graph gives this tensor's values."""
        return tensor in self._constants

    def shape(self, constant: str) -> tuple[int, ...]:
        """The dimensions of a constant of the source graph."""
        return tuple(self._constants[constant].dims)

    def values(self, constant: str) -> NDArray[Any]:
        """The values of a constant of the source graph."""
        return values_of(self._constants[constant], self._arrays)

    def pair(self, tensor: str, scale: Scale, *, wide: bool = False) -> str:
        """QuantizeLinear and DequantizeLinear behind ``tensor``.

        Args:
            tensor: the activation.
            scale: how it is quantised.
            wide: the dequantised tensor stays float32 in a graph whose remainder is half (see :meth:`stay_wide`).

        Returns:
            The name of the dequantised tensor; the same one when asked again.
        """
        if (tensor, scale) not in self._stored:
            step = self.constant(np.float32(scale.scale), f"{tensor}.scale")
            zero = self._zero(scale, f"{tensor}.zero_point")
            quantized = self._make("QuantizeLinear", [tensor, step, zero], f"{tensor}.quantized")
            self._stored[tensor, scale] = [quantized, step, zero]
            if self._makers.get(tensor) in self.wide:
                self.wide.add(quantized)
        if (tensor, scale, wide) not in self._pairs:
            output = self._make("DequantizeLinear", self._stored[tensor, scale], f"{tensor}.dequantized")
            self._pairs[tensor, scale, wide] = output
            if wide:
                self.stay_wide(output)
        return self._pairs[tensor, scale, wide]

    def stay_wide(self, node: str) -> None:
        """Note that a node isn't to become half precision with the remainder of the graph.

        What quantises its result later stays float32 too.
        """
        self.wide.add(node)

    def weight(
        self,
        tensor: str,
        axis: int,
        *,
        half_scales: bool = False,
        factor: float = 1.0,
        least: Floats | None = None,
    ) -> tuple[str, Floats]:
        """An 8-bit constant and its DequantizeLinear in place of a float weight, a symmetric scale a channel.

        Args:
            tensor: the name of the weight.
            axis: the dimension of the output channels.
            half_scales: use only scales that float16 holds exactly.
            factor: multiply the weight by this before.
            least: the smallest scale to use, a channel; of INT8.

        Returns:
            The name of the dequantised tensor, and the scales, float32 [channels].
        """
        key = (tensor, axis, half_scales, factor, None if least is None else least.tobytes())
        if key not in self._weights:
            codes, scales = self.codes(tensor, axis, half_scales=half_scales, factor=factor, least=least)
            keep = self._fp8 if self._precision == "fp8" else self.constant
            stored = keep(codes, f"{tensor}.{self._precision}")
            zero = keep(np.zeros(scales.shape, codes.dtype), f"{tensor}.zero_point")
            inputs = [stored, self.constant(scales, f"{tensor}.scale"), zero]
            self._weights[key] = (self._make("DequantizeLinear", inputs, f"{tensor}.dequantized", axis=axis), scales)
        return self._weights[key]

    def codes(
        self, tensor: str, axis: int, *, half_scales: bool = False, factor: float = 1.0, least: Floats | None = None
    ) -> tuple[NDArray[Any], Floats]:
        """What :meth:`weight` stores: int8, or the bits of FP8 as uint8, and the scales, float32 [channels]."""
        values = self.values(tensor)
        values = values * np.float32(factor) if factor != 1.0 else values
        if self._precision == "fp8":
            return quantise_weight_fp8(values, axis, half_scales=half_scales)
        return quantise_weight(values, axis, half_scales=half_scales, least=least, clip=self._clip)

    def bias(self, tensor: str, values: Floats, scales: Floats) -> str:
        """An int32 constant and its DequantizeLinear in place of a float bias.

        Args:
            tensor: the name of the bias.
            values: float32 [channels].
            scales: float32 [channels]: the input's scale times the weight's.

        Returns:
            The name of the dequantised tensor.
        """
        limit = 2**31 - 1
        stored = np.rint(values.astype(np.float64) / scales).clip(-limit, limit).astype(np.int32)
        inputs = [
            self.constant(stored, f"{tensor}.int32"),
            self.constant(scales, f"{tensor}.scale"),
            self.constant(np.zeros(scales.shape, np.int32), f"{tensor}.zero_point"),
        ]
        return self._make("DequantizeLinear", inputs, f"{tensor}.dequantized", axis=0)

    def constant(self, values: Any, name: str) -> str:
        """A new constant; returns its name, which is ``name`` unless that is taken."""
        values = np.asarray(values)
        if values.nbytes <= LIGHT:
            return self._keep(onnx.numpy_helper.from_array(values, name))
        name = self._keep(stub(name, values.dtype, values.shape))
        self._large[name] = values
        return name

    def _zero(self, scale: Scale, name: str) -> str:
        """A constant of a scale's type: its zero point."""
        if scale.dtype == "float8_e4m3fn":
            return self._fp8(np.zeros((), np.uint8), name)
        return self.constant(np.dtype(scale.dtype).type(scale.zero_point), name)

    def _fp8(self, codes: NDArray[np.uint8], name: str) -> str:
        """A new constant of type FP8 from its bits."""
        kind = onnx.TensorProto.FLOAT8E4M3FN
        return self._keep(onnx.TensorProto(name=name, data_type=kind, dims=codes.shape, raw_data=codes.tobytes()))

    def _keep(self, tensor: onnx.TensorProto) -> str:
        tensor.name = unique(tensor.name, self._taken)
        self._new[tensor.name] = tensor
        return tensor.name

    def rename_input(self, node: onnx.NodeProto, old: str, new: str) -> None:
        """Let ``node`` (one of this graph) read ``new`` wherever it read ``old``."""
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new

    def plain_gemm(self, node: onnx.NodeProto) -> tuple[float, float]:
        """Take ``alpha`` and ``beta`` off a Gemm, to be multiplied into its weight and its bias; returns them."""
        factors = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
        for name, factor in zip(("alpha", "beta"), factors, strict=True):
            if factor != 1.0:
                set_attribute(node, name, 1.0)
        return factors

    def split(self) -> SplitGraph:
        """The graph, sorted, without constants that nothing uses any more; large constants are stubs."""
        self.graph.node.extend(self._added)
        used = {name for node in self.graph.node for name in node.input}
        used.update(value.name for value in self.graph.output)
        for name, tensor in initializers(self._source.graph).items():
            if name in used:
                self.graph.initializer.add().CopyFrom(tensor)
        self.graph.initializer.extend(self._new.values())
        topological_sort(self.graph)
        remove_unused(self.graph)
        del self.graph.value_info[:]
        return SplitGraph(self._model, {**self._arrays, **self._large})

    def finish(self) -> onnx.ModelProto:
        """What :meth:`split` gives, whole."""
        return self.split().whole()

    def _make(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        output = unique(output, self._taken)
        self._added.append(onnx.helper.make_node(op, inputs, [output], output, **attributes))
        return output
