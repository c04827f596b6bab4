"""Adds to what convolutions and products make, by their biases."""

from collections.abc import Collection, Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.rewrite import Rewrite
from engines.errors import TableError
from export.light import NO_ARRAYS, Arrays
from export.onnxlib import onnx
from export.structure import attribute, label

_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Weighted operators that have a bias. A MatMul has none: its shift stays."""


def shift_biases(
    model: onnx.ModelProto,
    shifts: Mapping[str, Sequence[float]],
    keep: Collection[str] = (),
    arrays: Arrays = NO_ARRAYS,
) -> onnx.ModelProto:
    """The graph with ``shifts`` added to the outputs of the named nodes, but those in ``keep``, by their biases.

    A convolution or Gemm without a bias gets one. A bias that other nodes read too stays as it is for them.

    Args:
        model: the FP32 graph; it isn't changed.
        shifts: by the name of a node, a number a channel.
        keep: nodes to leave alone: those that stay unquantised.
        arrays: the values of the graph's stubs (:mod:`export.light`); those that aren't changed stay stubs.

    Returns:
        A new graph; ``model`` itself if nothing is shifted.

    Raises:
        TableError: a node isn't there, has no bias that can be shifted, or another number of channels.
    """
    wanted = {name: np.asarray(shift, np.float64) for name, shift in shifts.items() if name not in keep}
    wanted = {name: shift for name, shift in wanted.items() if shift.any()}
    if not wanted:
        return model
    rewrite = Rewrite(model, arrays)
    for name, shift in wanted.items():
        node = rewrite.nodes.get(name)
        if node is None or not has_bias(node, rewrite.constants):
            raise TableError(f"the graph has no node '{name}' with a bias to correct", "calibrate this graph again")
        channels = _channels(node, rewrite.constants[node.input[1]].dims)
        if len(shift) != channels:
            raise TableError(
                f"node '{name}' has {channels} channels, and the table corrects {len(shift)}",
                "calibrate this graph again",
            )
        _shift(rewrite, node, shift)
    return rewrite.finish()


def has_bias(node: onnx.NodeProto, constants: Container[str]) -> bool:
    """Whether a number a channel can be added to what ``node`` makes: its bias is a constant, or it has none.

    Args:
        node: of the FP32 graph.
        constants: names of the tensors whose values the graph gives.
    """
    if node.op_type not in _WITH_BIAS or node.input[1] not in constants:
        return False
    return len(node.input) < 3 or not node.input[2] or node.input[2] in constants


def _shift(rewrite: Rewrite, node: onnx.NodeProto, shift: NDArray[np.float64]) -> None:
    """Add to what one node of the new graph makes."""
    beta = float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias or not beta:  # with beta = 0 nothing is added, whatever is given
        kept = [item for item in node.attribute if item.name != "beta"]
        del node.attribute[:], node.input[2:]
        node.attribute.extend(kept)
        node.input.append(rewrite.add(f"{label(node)}.bias", shift.astype(np.float32)))
        return
    values = rewrite.values(bias)
    shifted = (values.astype(np.float64) + shift / beta).astype(values.dtype)
    if rewrite.is_shared(bias):
        node.input[2] = rewrite.add(f"{bias}.corrected", shifted)
    else:
        rewrite.set(bias, shifted)


def _channels(node: onnx.NodeProto, dims: Sequence[int]) -> int:
    """How many output channels a node with weights of these dimensions has."""
    if node.op_type == "ConvTranspose":
        return int(dims[1]) * int(attribute(node, "group", 1))
    return int(dims[1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0])
