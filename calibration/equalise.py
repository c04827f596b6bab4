"""Cross-layer equalisation: channels that are far larger than the others are made smaller before they are quantised.

An activation has one scale for all its channels. Where a few channels are hundreds of times above the rest, the rest
is left a handful of steps, or none. Dividing a channel by a factor, and multiplying the weights that read it, changes
nothing in float (:mod:`calibration.regions`); here the factors are powers of two, so that not a bit changes. The
weights have a scale for each output channel, so a factor costs little there. (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1; the factors are those of Xiao et al. 2023,
"SmoothQuant", equation 4.)

Whether it is needed is predicted. For one reader with weights ``w`` (output i, input channel j), channel maxima ``a``
and factors ``f``, rounding in steps of ``range / 127`` adds to output i

- from the activation ``max(a / f)² / (12 · 127²) · Σ w² f²``,
- from the weights ``max(w f)² / (12 · 127²) · Σ (a / f)² / c²``,

to a signal of ``Σ w² a² / c²``, where ``a / c`` stands for a channel's root mean square. The ratio in dB, averaged
over the outputs of the reader that is worst off, tells how much of the signal is left; ordinary layers come to about
25 to 37 dB. Channels are scaled where it is below :data:`NEEDED_DB`: there a large channel has small weights, so
that all channels matter alike. They are scaled too where the largest channel is :data:`UNEVEN` times the median: most
of the signal may then be one channel that is much the same for every image. Both only if it gains :data:`GAIN_DB`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.parallel import over_cores
from calibration.regions import Reader, Region, regions
from calibration.rewrite import Rewrite
from engines.errors import TableError
from export.light import NO_ARRAYS, Arrays
from export.onnxlib import onnx
from export.structure import attribute

NEEDED_DB = 20.0
"""Tensors that keep this ratio of signal to noise are left alone, unless they are too uneven."""

UNEVEN = 16.0
"""The ratio of the largest channel to the median from which on a tensor is too uneven: the median has 4 bits left."""

GAIN_DB = 6.0
"""What scaling must gain: one bit."""

_CREST = 4.0
"""The ratio of a channel's maximum to its root mean square that is assumed."""

_MIGRATION = (0.5, 0.75, 1.0)
"""SmoothQuant's α: how much of the unevenness the weights take over; the best one is used."""

_HEADROOM = 4.0
"""How far below the median a small channel stays: on images that weren't seen it may be larger."""

_LIMIT = 20
"""Factors are between 2^-20 and 2^20."""

_OUTPUTS = 512
"""Outputs of a reader that are looked at, of the thousands that a matrix product can have."""

_NOISE = 1 / (12 * 127**2)

Doubles = NDArray[np.float64]


def equalisable(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the groups (:mod:`calibration.ranges`) whose channels can be scaled, in graph order."""
    return tuple(regions(model))


def equalise(
    model: onnx.ModelProto, factors: Mapping[str, Sequence[float]], arrays: Arrays = NO_ARRAYS
) -> onnx.ModelProto:
    """The graph with each named tensor divided by its factors; with powers of two, its outputs are the same bits.

    Args:
        model: the FP32 graph; it isn't changed.
        factors: by the name of a group of :func:`equalisable`, a positive factor a channel.
        arrays: the values of the graph's stubs (:mod:`export.light`); those that aren't changed stay stubs.

    Returns:
        A new graph of the same nodes and tensors with other weights and biases; ``model`` itself without factors.

    Raises:
        TableError: a tensor can't be scaled, or has another number of channels.
    """
    if not factors:
        return model
    found = regions(model)
    rewrite = Rewrite(model, arrays)
    for name, numbers in factors.items():
        region = found.get(name)
        if region is None:
            raise TableError(
                f"the channels of tensor '{name}' can't be scaled in this graph", "calibrate this graph again"
            )
        if len(numbers) != region.channels:
            raise TableError(
                f"tensor '{name}' has {region.channels} channels, and the table scales {len(numbers)}",
                "calibrate this graph again",
            )
        scale = np.asarray(numbers, np.float32)
        _divide(rewrite, region.producer, scale)
        for reader in region.readers:
            _multiply(rewrite, reader, scale)
    return rewrite.finish()


def find_factors(
    model: onnx.ModelProto, maxima: Mapping[str, NDArray[Any]], arrays: Arrays = NO_ARRAYS
) -> dict[str, tuple[float, ...]]:
    """Factors for the tensors that need them: see the top of this module for what decides.

    A channel's factor is ``a^α / w^(1-α)`` over that of the median channel, to the nearest power of two, where ``w``
    is the largest weight that reads it as a share of the largest of its output channel. Channels below the median
    are made larger to a quarter of it at most. Of channels that were always zero nothing is known but the weights
    that read them: those are made as small as the others'.

    Args:
        model: the FP32 graph.
        maxima: by the name of a group, max|x| of each channel, where it was measured; what isn't
            in :func:`equalisable` is ignored.
        arrays: the values of the graph's stubs.

    Returns:
        Factors by group for :func:`equalise`; empty for an ordinary network.
    """
    rewrite = Rewrite(model, arrays)

    def factors(item: tuple[str, Region]) -> tuple[str, Doubles | None]:
        name, region = item
        values = maxima.get(name)
        if values is None or np.size(values) % region.channels:
            return name, None
        peaks = np.asarray(values, np.float64).reshape(region.channels, -1).max(axis=1)  # flattened, or not
        return name, _factors(peaks, region, rewrite)

    found = over_cores(factors, regions(model).items())
    return {name: tuple(map(float, values)) for name, values in found if values is not None}


def _factors(peaks: Doubles, region: Region, rewrite: Rewrite) -> Doubles | None:
    """The factors of one region; None where it needs none."""
    alive = peaks > 0
    if not alive.any() or not np.isfinite(peaks).all():
        return None
    median = np.median(peaks[alive])
    tables = [_Weights(reader, region.channels, rewrite) for reader in region.readers]
    before = min(table.signal_to_noise(peaks, np.ones_like(peaks)) for table in tables)
    if before >= NEEDED_DB and peaks.max() < UNEVEN * median:
        return None
    weight = np.max([table.shares for table in tables], axis=0)
    weight[weight <= 0] = np.median(weight[weight > 0]) if (weight > 0).any() else 1.0
    best, after = None, before + GAIN_DB
    for share in _MIGRATION:
        wanted = np.where(alive, peaks, median) ** share / weight ** (1 - share)
        factors = np.exp2(np.rint(np.log2(wanted / np.median(wanted[alive]))).clip(-_LIMIT, _LIMIT))
        least = np.exp2(np.ceil(np.log2(np.minimum(1, np.where(alive, _HEADROOM * peaks / median, 1)))))
        factors = np.maximum(factors, least)
        usual = np.median((weight * factors)[alive])
        silent = np.exp2(np.floor(np.log2(np.minimum(1, usual / weight))).clip(-_LIMIT, 0))
        factors = np.where(alive, factors, silent)
        reached = min(table.signal_to_noise(peaks, factors) for table in tables)
        if reached > after:
            best, after = factors, reached
    return best


class _Weights:
    """What the noise of one reader depends on.

    Attributes:
        shares: float64 [channels]: the largest weight of each input channel, as a share of its output channel's.
    """

    def __init__(self, reader: Reader, channels: int, rewrite: Rewrite) -> None:
        values = rewrite.values(reader.node.input[1])
        by_output = _by_output(reader, values, channels)
        group = int(attribute(reader.node, "group", 1)) if reader.node.op_type in {"Conv", "ConvTranspose"} else 1
        if group == 1:
            by_output = by_output[:: -(-len(by_output) // _OUTPUTS)]
        largest = np.maximum(by_output.max(axis=2), -by_output.min(axis=2))
        squares = np.einsum("oci,oci->oc", by_output, by_output)
        self._taps = by_output.shape[2]
        if group > 1:
            largest, squares = (_spread(item, channels, group) for item in (largest, squares))
        self._reads = _spread(np.ones((len(by_output), channels // group), np.float32), channels, group)
        self._largest, self._squares = largest, squares
        rows = largest.max(axis=1)
        self.shares: Doubles = (largest[rows > 0] / rows[rows > 0, None]).max(axis=0, initial=0).astype(np.float64)

    def signal_to_noise(self, peaks: Doubles, factors: Doubles) -> float:
        """The predicted ratio in dB, averaged over the outputs."""
        powers = (peaks / _CREST) ** 2
        signal = self._squares @ powers
        rounding = _NOISE * (peaks / factors).max() ** 2 * (self._squares @ factors**2)
        ranges = (self._largest * factors).max(axis=1)
        weights = _NOISE * ranges**2 * self._taps * (self._reads @ (powers / factors**2))
        known = signal > 0
        return float(10 * np.log10(signal[known] / (rounding + weights)[known]).mean()) if known.any() else np.inf


def _by_output(reader: Reader, values: NDArray[Any], channels: int) -> NDArray[Any]:
    """A reader's weights, [outputs, input channels of its group, weights for one input channel]; mostly a view."""
    node = reader.node
    if node.op_type == "Conv":
        return values.reshape(*values.shape[:2], -1)
    if node.op_type == "ConvTranspose":
        group = int(attribute(node, "group", 1))
        parts = values.reshape(group, values.shape[0] // group, values.shape[1], -1)
        return parts.swapaxes(1, 2).reshape(group * values.shape[1], values.shape[0] // group, -1)
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return values.reshape(len(values), channels, reader.repeats)
    if values.ndim == 1:
        return values.reshape(1, channels, reader.repeats)
    stacked = values.reshape(-1, channels, reader.repeats, values.shape[-1])
    return np.moveaxis(stacked, -1, 1).reshape(-1, channels, reader.repeats)


def _spread(values: NDArray[Any], channels: int, group: int) -> NDArray[Any]:
    """What a grouped convolution has for the channels of its group, [outputs, channels / group], for all of them."""
    each = len(values) // group
    spread = np.zeros((len(values), channels), values.dtype)
    for index in range(group):
        rows, columns = slice(index * each, (index + 1) * each), channels // group
        spread[rows, index * columns : (index + 1) * columns] = values[rows]
    return spread


def _divide(rewrite: Rewrite, node: onnx.NodeProto, factors: NDArray[np.float32]) -> None:
    """Divide what ``node`` makes."""
    name = node.input[1]
    values = rewrite.values(name)
    if node.op_type == "ConvTranspose":
        scale = _for_inputs(factors, values, int(attribute(node, "group", 1)))
    else:
        first = node.op_type == "Conv" or (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
        scale = factors.reshape([-1] + [1] * (values.ndim - 1)) if first else factors
    rewrite.set(name, values / scale)
    if len(node.input) > 2 and node.input[2]:
        rewrite.set(node.input[2], rewrite.values(node.input[2]) / factors)


def _multiply(rewrite: Rewrite, reader: Reader, factors: NDArray[np.float32]) -> None:
    """Multiply the weights by which a node reads what was divided."""
    node, name = reader.node, reader.node.input[1]
    values = rewrite.values(name)
    if node.op_type == "Conv":
        scale = _for_inputs(factors, values, int(attribute(node, "group", 1)))
    elif node.op_type == "ConvTranspose":
        scale = factors.reshape([-1] + [1] * (values.ndim - 1))
    else:
        scale = np.repeat(factors, reader.repeats)
        along_last = values.ndim == 1 or (node.op_type == "Gemm" and attribute(node, "transB", 0))
        scale = scale if along_last else scale[:, None]
    rewrite.set(name, values * scale)


def _for_inputs(factors: NDArray[np.float32], values: NDArray[Any], group: int) -> NDArray[np.float32]:
    """Factors of all channels for the second dimension of a convolution's weights, which counts those of a group."""
    rows = np.repeat(factors.reshape(group, -1), len(values) // group, axis=0)
    return rows.reshape(values.shape[:2] + (1,) * (values.ndim - 2))
