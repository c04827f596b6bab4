"""Bias correction: what quantising a layer adds to its output on average is taken off its bias.

Rounding weights and clipping activations shift the mean of each output channel. That mean is the same for every
image, so the bias can take it back at no cost (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
and Bias Correction", section 4.2; measured on images, as in its appendix D). Each layer's own error is measured, on
the FP32 graph's activations, all layers in one pass.
"""

import tempfile
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.as_written import AsWritten
from calibration.rewrite import Rewrite
from calibration.table import CalibrationTable
from engines.errors import DataError, GraphError, TableError
from engines.tensors import check_feeds
from export.graph import inputs, save_graph
from export.onnxlib import onnx
from export.structure import attribute, label

_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Weighted operators that have a bias. A MatMul has none: its shift stays."""


def measure_biases(
    model: onnx.ModelProto,
    table: CalibrationTable,
    batches: Iterable[NDArray[Any]],
    *,
    threads: int | None = None,
) -> dict[str, tuple[float, ...]]:
    """What to add to the biases of the nodes that ``table`` quantises for TensorRT.

    A few dozen images are enough: it is a mean over images and positions. Memory is that of inference with twice
    the weights, whatever the number of images.

    Args:
        model: the FP32 master graph; it isn't changed.
        table: its ranges, weight clip, equalisation and kept nodes; biases in it are left out.
        batches: what the graph takes; they may differ in N.
        threads: of ONNX Runtime; all cores unless given.

    Returns:
        By the name of a node, the negated mean error of each output channel: what :func:`shift_biases` takes.

    Raises:
        DataError: there are no images.
        TableError: the table was made from other weights or preprocessing, or lacks a tensor.
        GraphError: the graph can't be run, has several inputs, nothing to quantise, or becomes NaN or infinite.
        InputError: a batch doesn't fit the graph's input.
        RunError: ONNX Runtime failed.
    """
    from calibration.beside import beside  # which quantises, and that shifts biases: it needs this module

    graph, errors = beside(model, replace(table, biases={}))
    del model  # if nobody else holds it, its weights make room for those of the session
    if not errors:
        return {}
    specs = inputs(graph)
    if len(specs) != 1:
        raise GraphError(f"the graph has {len(specs)} inputs, not one", "export the model again")
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        path = Path(folder) / "beside.onnx"
        save_graph(graph, path)
        del graph
        session = AsWritten(path, "Correcting biases", threads)
    sums: dict[str, Any] = dict.fromkeys(errors, 0.0)
    images = 0
    for batch in batches:
        feeds = {specs[0].name: batch}
        check_feeds(specs, feeds)
        for name, mean in zip(errors, session.run(list(errors.values()), feeds), strict=True):
            sums[name] = sums[name] + mean.astype(np.float64) * len(batch)
        images += len(batch)
    if not images:
        raise DataError("no images to correct biases with", "give data with at least one image")
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise GraphError(
                f"what node '{name}' computes is NaN or infinite", "check the graph with `toolkit verify`"
            )
    return {name: tuple((-total / images).astype(np.float32).tolist()) for name, total in sums.items()}


def shift_biases(
    model: onnx.ModelProto, shifts: Mapping[str, Sequence[float]], keep: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with ``shifts`` added to the outputs of the named nodes, but those in ``keep``, by their biases.

    A convolution or Gemm without a bias gets one. A bias that other nodes read too stays as it is for them.

    Args:
        model: the FP32 graph; it isn't changed.
        shifts: by the name of a node, a number a channel.
        keep: nodes to leave alone: those that stay unquantised.

    Returns:
        A new graph; ``model`` itself if nothing is shifted.

    Raises:
        TableError: a node isn't there, has no bias that can be shifted, or another number of channels.
    """
    wanted = {name: np.asarray(shift, np.float64) for name, shift in shifts.items() if name not in keep}
    wanted = {name: shift for name, shift in wanted.items() if shift.any()}
    if not wanted:
        return model
    rewrite = Rewrite(model)
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
