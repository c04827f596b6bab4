"""The first graph's constants in the types of the second: what an honest typed graph must hold.

A weight that the second graph stores in 8 bits is rounded with the second graph's own scales, type and axis, one that
it stores in half precision is rounded to that. So what differs from it is not what the types cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bisection.rounding import Rounding, numpy_type
from calibration.bisection.sides import FLOATS, Pairs, Side
from calibration.likeness import is_transparent
from calibration.placement.tensorrt import weight_axis
from calibration.ranges import PRODUCTS, WEIGHTED
from calibration.weights import Floats
from export.onnxlib import onnx
from export.structure import attribute

Place = tuple[str, int]
"""An input of a node of the second graph: its first output, and the position."""


@dataclass(frozen=True)
class Gain:
    """What a layer's weights are multiplied by, beside their rounding.

    Attributes:
        factor: by least squares over all of them.
        explains: the share of their difference that it explains, in [0, 1].
    """

    factor: float
    explains: float


@dataclass(frozen=True)
class Grounds:
    """The constants of the second graph as they come from the first.

    Attributes:
        values: by the input that they belong to; those that the second graph has just so aren't among them.
        gains: by the first output of every convolution and product of which all constants are known.
    """

    values: Mapping[Place, NDArray[Any]]
    gains: Mapping[str, Gain]


def grounded(first: Side, second: Side, pairs: Pairs) -> Grounds:
    """Put the first graph's constants into the second's types.

    Args:
        first: the reference; equalised as the second is.
        second: the graph that is judged.
        pairs: what belongs together.
    """
    rounding = Rounding(second)
    found: dict[Place, NDArray[Any]] = {}
    gains = {}
    for node in second.weighted():
        partner = pairs.weighted.get(node.output[0])
        taken = None if partner is None else _of_weighted(first, second, partner, node, pairs, rounding)
        if taken is not None:
            values, gains[node.output[0]] = taken
            found |= values
    for node in second.nodes:
        if node.op_type in WEIGHTED or node.output[0] not in pairs.tensors or node.op_type == "Reshape":
            continue
        other = first.made_by[pairs.tensors[node.output[0]]]
        if other.op_type != node.op_type:
            continue
        for position, (name, theirs) in enumerate(zip(node.input, other.input, strict=False)):
            if name in second.constants and theirs in first.constants and second.dtype(name) in FLOATS:
                rounded = rounding(name, first.constants.values(theirs))
                if rounded is not None and not np.array_equal(
                    rounded, second.constants.values(name).astype(rounded.dtype, copy=False)
                ):
                    found[node.output[0], position] = rounded
    return Grounds(found, gains)


def _of_weighted(
    first: Side, second: Side, partner: onnx.NodeProto, node: onnx.NodeProto, pairs: Pairs, rounding: Rounding
) -> tuple[dict[Place, NDArray[Any]], Gain] | None:
    """The weight and the bias of one convolution or product, and the weight's gain; None where they can't be told."""
    weight, bias = _effective(first, partner, set(pairs.tensors.values()))
    if weight is None:
        return None
    if node.op_type == "Gemm":
        weight = _times(weight, 1 / float(attribute(node, "alpha", 1.0)))
        weight = weight.T if attribute(node, "transB", 0) else weight
        bias = None if bias is None else bias / np.float32(attribute(node, "beta", 1.0) or 1.0)
    known = _weight_of(second, node, weight.astype(np.float32, copy=False), rounding)
    if known is None:
        return None
    rounded, gain = known
    result: dict[Place, NDArray[Any]] = {} if rounded is None else {(node.output[0], 1): rounded}
    place, name = _bias_of(second, node, set(pairs.tensors))
    if not name:
        return (result, gain) if bias is None else None
    shape = second.values(name)
    if shape is None:
        return None
    offset = np.zeros(1, np.float32) if bias is None else bias.reshape(-1)
    if offset.size not in {1, shape.size}:
        return None
    exact = np.broadcast_to(offset, shape.size).reshape(shape.shape)
    kept = rounding(name, exact.astype(np.float32))
    # An int32 bias is as good as exact: its steps are the product of two scales.
    should = exact.astype(numpy_type(second.dtype(name))) if kept is None else kept
    if not np.array_equal(should, shape.astype(should.dtype)):
        result[place] = should
    return result, gain


def _weight_of(
    second: Side, node: onnx.NodeProto, weight: Floats, rounding: Rounding
) -> tuple[NDArray[Any] | None, Gain] | None:
    """What a node's weight should be, None where the second graph's is just that, and its gain.

    None where it can't be told.
    """
    rounded = rounding(node.input[1], weight)
    if rounded is None or rounded.shape != weight.shape:
        return None
    same = Gain(1.0, 0.0)
    stored = second.constants.stored(node.input[1])
    if stored is not None and stored.dtype == rounded.dtype and np.array_equal(rounded, stored):
        return None, same
    theirs = second.values(node.input[1])
    if theirs is None or theirs.shape != weight.shape:
        return None
    if np.array_equal(rounded, theirs.astype(rounded.dtype, copy=False)):
        return None, same
    return rounded, _gain(weight, rounded.astype(np.float32, copy=False), theirs)


def _gain(weight: Floats, rounded: Floats, found: Floats) -> Gain:
    """What ``found`` is multiplied by, where ``rounded`` is what it should be, by least squares along ``weight``."""

    def along(one: Floats, other: Floats) -> float:
        return float(np.einsum("i,i->", one.ravel(), other.ravel(), dtype=np.float64))

    expected = along(weight, rounded)
    factor = along(weight, found) / expected if expected > 0 else 1.0
    difference = found - rounded
    power = along(difference, difference)
    return Gain(factor, min(1.0, (factor - 1) ** 2 * along(rounded, rounded) / power) if power > 0 else 0.0)


def _times(values: NDArray[Any], factor: float) -> NDArray[Any]:
    """``values`` times a number, which mostly is 1."""
    return values if factor == 1 else values * np.float32(factor)


def _effective(
    side: Side, node: onnx.NodeProto, matched: set[str]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """The weight ([inputs, outputs] of a product) and bias of a node, with what the other graph folded into it.

    That is a constant sum or a BatchNormalization behind it, where the tensor between has no partner.
    """
    weight: NDArray[Any] | None = side.values(node.input[1])
    if weight is None:
        return None, None
    bias: NDArray[Any] | None = side.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if node.op_type == "Gemm":
        weight = _times(weight.T if attribute(node, "transB", 0) else weight, attribute(node, "alpha", 1.0))
        bias = None if bias is None else bias * np.float32(attribute(node, "beta", 1.0))
    axis = weight.ndim - 1 if node.op_type in PRODUCTS else weight_axis(node, weight.ndim)
    tensor = node.output[0]
    while tensor not in matched and len(users := side.users.get(tensor, [])) == 1:
        user = users[0]
        constants = [side.values(name) for name in user.input if name != tensor]
        if user.op_type == "Add" and len(constants) == 1 and constants[0] is not None:
            bias = constants[0].reshape(-1) + (0 if bias is None else bias.reshape(-1))
        elif user.op_type == "BatchNormalization" and all(item is not None for item in constants):
            gamma, beta, mean, variance = (np.asarray(item) for item in constants)
            factor = gamma / np.sqrt(variance + np.float32(attribute(user, "epsilon", 1e-5)))
            shape = [1] * weight.ndim
            shape[axis] = -1
            if weight.shape[axis] != factor.size:
                return None, None
            weight = weight * factor.reshape(shape)
            bias = beta + ((0 if bias is None else bias.reshape(-1)) - mean) * factor
        else:
            break
        tensor = user.output[0]
    return weight, bias


def _bias_of(side: Side, node: onnx.NodeProto, matched: set[str]) -> tuple[Place, str]:
    """Where a node's bias is read, its own or that of a sum behind it; no name where it has none."""
    if len(node.input) > 2 and node.input[2]:
        return (node.output[0], 2), str(node.input[2])
    tensor, users = node.output[0], side.users.get(node.output[0], [])
    while tensor not in matched and len(users) == 1 and is_transparent(users[0]):
        tensor = users[0].output[0]
        users = side.users.get(tensor, [])
    if tensor not in matched and len(users) == 1 and users[0].op_type == "Add":
        for position, name in enumerate(users[0].input):
            if name not in side.computed:
                return (users[0].output[0], position), str(name)
    return (node.output[0], 2), ""
