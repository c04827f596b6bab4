"""Graphs, tables and runs that the calibration tests share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.table import CalibrationTable
from export.graph import weights_digest
from tests.tiny import PREPROCESS, tiny_images

IMAGES = PREPROCESS.normalise(tiny_images(512, seed=1))
UNSEEN = PREPROCESS.normalise(tiny_images(32, seed=99))


def table_of(model: onnx.ModelProto, method: str = "minmax") -> CalibrationTable:
    return collect(model, [IMAGES]).table(method)


def given_table(model: onnx.ModelProto, **ranges: tuple[float, float, float]) -> CalibrationTable:
    """A table of (amax, minimum, maximum) by name."""
    from calibration.table import TensorRange

    return CalibrationTable(
        {name: TensorRange(*values) for name, values in ranges.items()}, "minmax", weights_digest(model)
    )


def run(model: onnx.ModelProto, feed: np.ndarray, *, optimised: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: feed})[0]


def optimised_operators(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantisation noise in dB."""
    return float(10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum()))


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    shape: Sequence[int | str] = ("batch", 3, 16, 16),
    output: Sequence[int | str] = ("batch", 5),
    opset: int = 20,
) -> onnx.ModelProto:
    """A model from ``input`` to ``logits``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(output))],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def he_weights(seed: int) -> Callable[..., np.ndarray]:
    """Gives normal weights of a shape, such that a ReLU network keeps its signal."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

    return weight


def residual_graph() -> onnx.ModelProto:
    """Two convolutions, a residual Add, a Concat, average pooling, a Gemm."""
    weight = he_weights(3)
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        make("Add", ["c2", "r1"], ["sum"], "add"),
        make("Relu", ["sum"], ["r2"], "relu2"),
        make("Conv", ["r2", "w3"], ["c3"], "conv3"),
        make("Conv", ["r2", "w4"], ["c4"], "conv4"),
        make("Concat", ["c3", "c4"], ["both"], "concat", axis=1),
        make("GlobalAveragePool", ["both"], ["mean"], "mean"),
        make("Flatten", ["mean"], ["flat"], "flatten"),
        make("Gemm", ["flat", "wf", "bf"], ["logits"], "fc", transB=1),
    ]
    constants = {
        "w1": weight(8, 3, 3, 3), "b1": weight(8), "w2": weight(8, 8, 3, 3), "w3": weight(4, 8, 1, 1),
        "w4": weight(4, 8, 1, 1), "wf": weight(5, 8), "bf": weight(5),
    }  # fmt: skip
    return graph_of(nodes, constants)
