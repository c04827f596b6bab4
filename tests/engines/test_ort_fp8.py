"""FP8 in ONNX Runtime: which files hold it, and that the session computes what they say."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from ml_dtypes import float8_e4m3fn
from onnx import TensorProto, helper, numpy_helper

from engines.sessions.onnxruntime import OnnxRuntimeSession
from engines.sessions.ort_fp8 import holds_fp8
from tests.engines.graphs import fp8_graph, int8_graph
from tests.tiny import tiny_graph

ZERO = numpy_helper.from_array(np.zeros((), float8_e4m3fn), "zero")


def written(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def model_of(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    """From "input" [4] to "output" [4]."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", TensorProto.FLOAT, [4])],
        [value("output", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.float32(1), "scale"), *initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def pair() -> list[onnx.NodeProto]:
    quantise = helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"])
    return [quantise, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["output"])]


def test_a_graph_with_fp8_is_told_from_one_without(tmp_path: Path) -> None:
    assert holds_fp8(written(tmp_path, fp8_graph()))
    assert not holds_fp8(written(tmp_path, int8_graph()))
    assert not holds_fp8(written(tmp_path, tiny_graph()))


def test_a_zero_point_in_a_constant_node_or_in_a_branch_is_found(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["zero"], value=ZERO)
    assert holds_fp8(written(tmp_path, model_of([constant, *pair()], [])))
    body = helper.make_graph(
        [constant, *pair()], "body", [], [helper.make_tensor_value_info("output", TensorProto.FLOAT, [4])]
    )
    condition = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_node("If", ["yes"], ["output"], then_branch=body, else_branch=body)
    assert holds_fp8(written(tmp_path, model_of([branch], [condition])))


def test_weights_outside_the_file_do_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(fp8_graph(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert holds_fp8(path)


@pytest.mark.parametrize("data", [b"", b"\x08", b"garbage" * 9, tiny_graph().SerializeToString()[:-9]], ids=len)
def test_what_is_no_whole_graph_holds_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert not holds_fp8(path)
    assert not holds_fp8(tmp_path)
    assert not holds_fp8(tmp_path / "none.onnx")


def test_numbers_are_rounded_and_saturated_as_the_format_has_it(tmp_path: Path) -> None:
    feed = np.array([0.3, -1000, 1e-4, 17], np.float32)
    with OnnxRuntimeSession(written(tmp_path, model_of(pair(), [ZERO])), device="cpu") as session:
        assert session.run({"input": feed})["output"].tolist() == [0.3125, -448, 0, 16]


def test_a_relu_before_a_quantizelinear_is_not_dropped(tmp_path: Path) -> None:
    """What ONNX Runtime does to FP8 unless it is told not to."""
    relu, (quantise, dequantise) = helper.make_node("Relu", ["input"], ["relu"]), pair()
    quantise.input[0] = "relu"
    path = written(tmp_path, model_of([relu, quantise, dequantise], [ZERO]))
    with OnnxRuntimeSession(path, device="cpu") as session:
        found = session.run({"input": np.array([-3, 1, -400, 201], np.float32)})["output"]
    assert found.tolist() == [0, 1, 0, 208]
