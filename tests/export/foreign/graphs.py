"""ONNX files as other exporters write them, built node by node; and what they compute, each sample for itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Value = tuple[str, list[int | str]]

RNG = np.random.default_rng(7)


def weight(*shape: int, seed: int = 0) -> Array:
    """Standard normal float32, scaled so that sums stay near 1."""
    scale = max(1.0, float(np.prod(shape[1:]))) ** -0.5
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    ir: int = 8,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model; constants are initializers, and its inputs and outputs all of one type."""
    made = helper.make_graph(
        list(nodes),
        "main_graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="other"
    )


def saved(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def answers(model: onnx.ModelProto | Path, feeds: Mapping[str, Array], batch: int | None = None) -> list[Array]:
    """What a graph computes in ONNX Runtime without optimisations: all at once, or in batches of one size."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    if batch is None:
        return [np.asarray(value) for value in session.run(None, dict(feeds))]
    count = len(next(iter(feeds.values())))
    assert count % batch == 0
    parts = [
        session.run(None, {name: value[start : start + batch] for name, value in feeds.items()})
        for start in range(0, count, batch)
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def same(
    master: onnx.ModelProto, original: Path, feeds: Mapping[str, Array], own: int = 1, *, room: float = 2e-5
) -> None:
    """Each sample of batches of 1, 2 and 7 gets what the file gives it in a batch of its own size."""
    size = 7 * own
    many = {name: np.resize(value, (size, *value.shape[1:])) for name, value in feeds.items()}
    expected = answers(original, many, own)
    for batch in (1, 2, 7):
        found = answers(master, {name: value[:batch] for name, value in many.items()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.reshape(batch, -1), other[:batch].reshape(batch, -1), atol=room, rtol=room)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def convolution(
    opset: int = 17, *, batch: int | str = "N", ir: int = 8, flat: Sequence[int] = (-1, 64)
) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Reshape, Gemm as an exporter writes them: [batch, 3, 8, 8] to 5 classes."""
    constants = {
        "w": weight(4, 3, 3, 3),
        "b": weight(4, seed=1),
        "shape": np.array(flat, np.int64),
        "fc": weight(5, 64, seed=2),
        "fb": weight(5, seed=3),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["p", "shape"], ["f"]),
        node("Gemm", ["f", "fc", "fb"], ["y"], transB=1),
    ]
    return graph(nodes, [("x", [batch, 3, 8, 8])], [("y", [batch, 5])], constants, opset=opset, ir=ir)
