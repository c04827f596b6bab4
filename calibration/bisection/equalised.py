"""How the channels of a typed graph were scaled, told by its weights."""

from collections.abc import Mapping, Sequence

import numpy as np

from calibration.bisection.sides import Pairs, Side
from calibration.equalise import equalise
from calibration.placement.tensorrt import weight_axis
from calibration.regions import Region, regions
from calibration.weights import Floats
from export.onnxlib import onnx
from export.structure import attribute

_CLEARLY = 0.5
"""How much nearer a scaled weight must be to be taken for what the second graph has."""


def equalised(first: onnx.ModelProto, second: Side, pairs: Pairs) -> onnx.ModelProto | None:
    """The first graph, with all of its weights, with its channels scaled as the second's are; None where they aren't.

    A typed graph says by the digest of its table that channels may have been scaled, not how. The weights tell: those
    that make a channel are divided by a power of two, and all that read it multiplied. Where only one of the two is
    so, it isn't equalisation but a difference.
    """
    partners = {partner.output[0]: node for node, partner in _partners(second, pairs)}
    factors: dict[str, Sequence[float]] = {}
    current = first
    for name, region in regions(first).items():
        weights = _weights(current, region)
        scale = _scale(second, region, partners, weights)
        if scale is None:
            continue
        trial = equalise(first, {**factors, name: scale})
        before, after = weights, _weights(trial, region)
        readers = [reader.node.output[0] for reader in region.readers]
        if all(_nearer(second, partners.get(key), after[key], before[key]) for key in readers):
            factors[name], current = scale, trial
    return current if factors else None


def _partners(second: Side, pairs: Pairs) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    return [(second.made_by[name], partner) for name, partner in pairs.weighted.items()]


def _weights(model: onnx.ModelProto, region: Region) -> dict[str, Floats]:
    """The weights of a region's producer and readers by the node's first output."""
    wanted = {node.input[1]: node.output[0] for node in (region.producer, *(item.node for item in region.readers))}
    return {
        wanted[tensor.name]: np.asarray(onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in wanted
    }


def _scale(
    second: Side, region: Region, partners: Mapping[str, onnx.NodeProto], weights: Mapping[str, Floats]
) -> tuple[float, ...] | None:
    """What a region's channels may have been divided by: powers of two; None where all are 1 or it can't be told."""
    producer = region.producer
    mine, theirs = weights.get(producer.output[0]), _theirs(second, partners.get(producer.output[0]))
    if mine is None or theirs is None or theirs.shape != mine.shape:
        return None
    if producer.op_type == "ConvTranspose" and int(attribute(producer, "group", 1)) > 1:
        return None
    axis = weight_axis(producer, mine.ndim)
    rows, others = (np.moveaxis(item, axis, 0).reshape(region.channels, -1) for item in (mine, theirs))
    energy = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    product = np.einsum("ij,ij->i", rows, others, dtype=np.float64)
    known = (energy > 0) & (product > 0)
    ratio = np.divide(energy, product, out=np.ones_like(energy), where=known)
    found = np.exp2(np.rint(np.log2(ratio)))
    return tuple(map(float, found)) if (found != 1).any() else None


def _theirs(second: Side, node: onnx.NodeProto | None) -> Floats | None:
    return None if node is None else second.values(node.input[1])


def _nearer(second: Side, node: onnx.NodeProto | None, scaled: Floats, plain: Floats) -> bool:
    """Whether the second graph's weight is nearer to the scaled one than to the plain one.

    A factor an output channel doesn't count: those of what the node makes are found with the next region. So one
    factor for all that is read, which would be the same, is not taken for equalisation.
    """
    theirs = _theirs(second, node)
    if node is None or theirs is None or theirs.shape != scaled.shape:
        return False
    axis = weight_axis(node, theirs.ndim)
    return _apart(scaled, theirs, axis) < _CLEARLY * _apart(plain, theirs, axis)


def _apart(first: Floats, second: Floats, axis: int) -> float:
    """The energy of ``second`` that no factor a channel explains by ``first``."""
    rows, others = (np.moveaxis(item, axis, 0).reshape(item.shape[axis], -1) for item in (first, second))
    products = [np.einsum("ij,ij->i", a, b, dtype=np.float64) for a, b in ((rows, rows), (rows, others))]
    energy = np.einsum("ij,ij->i", others, others, dtype=np.float64)
    explained = np.divide(products[1] ** 2, products[0], out=np.zeros_like(energy), where=products[0] > 0)
    return float(np.maximum(energy - explained, 0).sum())
