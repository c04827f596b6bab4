"""Bias correction: what quantising a layer adds to its output on average is taken off its bias.

Rounding weights and clipping activations shift the mean of each output channel. That mean is the same for every
image, so the bias can take it back at no cost (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
and Bias Correction", section 4.2; measured on images, as in its appendix D). Each layer's own error is measured, on
the FP32 graph's activations, all layers in one pass.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.as_written import AsWritten
from calibration.beside import beside
from calibration.feeds import Batch, feeds_of
from calibration.table import CalibrationTable
from engines.errors import DataError, GraphError
from export.graph import inputs, save_graph
from export.onnxlib import onnx


def measure_biases(
    model: onnx.ModelProto,
    table: CalibrationTable,
    batches: Iterable[Batch],
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
        By the name of a node, the negated mean error of each output channel, for
        :func:`calibration.shift.shift_biases`.

    Raises:
        DataError: there are no images.
        TableError: the table was made from other weights or preprocessing, or lacks a tensor.
        GraphError: the graph can't be run, has nothing to quantise, or becomes NaN or infinite.
        InputError: a batch doesn't fit the graph's input.
        RunError: ONNX Runtime failed.
    """
    graph, errors = beside(model, replace(table, biases={}))
    del model  # if nobody else holds it, its weights make room for those of the session
    if not errors:
        return {}
    specs = inputs(graph)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        path = Path(folder) / "beside.onnx"
        save_graph(graph, path)
        del graph
        session = AsWritten(path, "Correcting biases", threads)
    sums: dict[str, Any] = dict.fromkeys(errors, 0.0)
    images = 0
    for batch in batches:
        feeds = feeds_of(specs, batch)
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
