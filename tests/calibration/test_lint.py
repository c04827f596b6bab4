"""The lint, on graphs that others write and on damage done on purpose."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.lint import FLOAT, REFUSED, SLOW, WRONG, lint, require_fusible
from calibration.qdq import quantise
from engines.errors import GraphError
from export.precision import to_half
from export.structure import topological_sort
from tests.calibration.graphs import IMAGES, graph_of, table_of
from tests.tiny import tiny_graph


@pytest.fixture
def good() -> onnx.ModelProto:
    master = tiny_graph()
    return quantise(master, table_of(master), "tensorrt", remainder="fp32")


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))


def values(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == name))


def found(model: onnx.ModelProto) -> set[tuple[str, str]]:
    return {(item.node, item.effect) for item in lint(model)}


def test_our_own_placement_and_plain_graphs_have_no_findings(good):
    assert lint(good) == []
    assert lint(tiny_graph()) == []
    assert require_fusible(good, "m.onnx") == ()


def stock(tmp_path, **options) -> onnx.ModelProto:
    """What ``onnxruntime.quantization.quantize_static`` makes."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"input": IMAGES}]

        def get_next(self):
            return self.left.pop() if self.left else None

    onnx.save(tiny_graph(), tmp_path / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), Reader(), **options)
    return onnx.load(tmp_path / "q.onnx")


def test_the_default_output_of_quantize_static_is_refused_for_its_biases(tmp_path):
    model = stock(tmp_path)
    problems = {item.problem for item in lint(model) if item.effect == REFUSED}
    assert "a bias is stored as int32" in problems
    with pytest.raises(GraphError, match=r"TensorRT refuses node .* \(and \d+ more\)"):
        require_fusible(model, "q.onnx")


def test_uint8_activations_are_refused(tmp_path):
    from onnxruntime.quantization import QuantType

    model = stock(tmp_path, activation_type=QuantType.QUInt8)
    problems = {item.problem for item in lint(model)}
    assert "it quantises to uint8" in problems


def test_our_placement_for_onnxruntime_is_not_for_tensorrt():
    master = tiny_graph()
    model = quantise(master, table_of(master), "onnxruntime")
    problems = {item.problem for item in lint(model)}
    assert {"it quantises to uint8", "its zero point is not 0", "a bias is stored as int32"} <= problems


def test_a_zero_point_that_is_not_zero_is_refused(good):
    replace(good, "pool.zero_point", np.int8(3))
    assert found(good) == {("pool.quantized", REFUSED), ("pool.dequantized", REFUSED)}


def test_a_wrong_weight_axis_would_run_in_float(good):
    node = next(item for item in good.graph.node if item.name == "conv2.weight.dequantized")
    node.attribute[0].i = 1
    replace(good, "conv2.weight.scale", np.full(8, 0.01, np.float32))
    replace(good, "conv2.weight.zero_point", np.zeros(8, np.int8))
    assert found(good) == {("conv2", FLOAT)}
    with pytest.raises(GraphError, match="silently run in float node 'conv2'"):
        require_fusible(good, "m.onnx")


def test_activations_with_a_scale_a_channel_would_run_in_float(good):
    replace(good, "pool.scale", np.full(8, 0.01, np.float32))
    replace(good, "pool.zero_point", np.zeros(8, np.int8))
    for node in good.graph.node:
        if node.name.startswith("pool."):
            node.attribute.append(helper.make_attribute("axis", 1))
    assert ("pool.quantized", FLOAT) in found(good)


@pytest.mark.parametrize("index", [0, 1])
def test_a_layer_quantised_on_one_side_would_run_in_float(good, index):
    conv = next(item for item in good.graph.node if item.name == "conv2")
    conv.input[index] = "pool" if index == 0 else "w"
    good.graph.initializer.append(numpy_helper.from_array(np.zeros((16, 8, 3, 3), np.float32), "w"))
    assert ("conv2", FLOAT) in found(good)
    with pytest.raises(GraphError):
        require_fusible(good, "m.onnx")


def test_a_layer_kept_back_on_purpose_is_a_note_and_no_error():
    master = tiny_graph()
    model = quantise(master, table_of(master), "tensorrt", keep=["conv1"])
    assert found(model) == {("conv1", FLOAT)}
    notes = require_fusible(model, "m.onnx")
    assert len(notes) == 1
    assert notes[0].startswith("conv1: ")


def test_half_scales_on_a_product_are_said_to_overflow(good):
    assert found(to_half(good, "fp16")) == {("fc1", WRONG), ("fc2", WRONG)}


def test_quantising_between_a_convolution_and_its_activation_is_slow(good):
    relu = next(item for item in good.graph.node if item.name == "relu1")
    scale = ["pool.scale", "pool.zero_point"]
    good.graph.node.append(helper.make_node("QuantizeLinear", ["conv1", *scale], ["q"], "q"))
    good.graph.node.append(helper.make_node("DequantizeLinear", ["q", *scale], ["d"], "d"))
    relu.input[0] = "d"
    topological_sort(good.graph)
    assert found(good) == {("q", SLOW)}


def test_a_quantised_graph_output_is_slow(good):
    last = next(item for item in good.graph.node if item.name == "fc2")
    last.output[0] = "raw"
    scale = ["pool.scale", "pool.zero_point"]
    good.graph.node.append(helper.make_node("QuantizeLinear", ["raw", *scale], ["q"], "q"))
    good.graph.node.append(helper.make_node("DequantizeLinear", ["q", *scale], ["logits"], "d"))
    assert found(good) == {("d", SLOW)}


def test_dynamically_quantised_operators_are_refused():
    constants = {"w": np.ones((5, 3, 16, 16), np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "s", "z"], "dynamic"),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["c"], "conv"),
        helper.make_node("Cast", ["c"], ["logits"], "cast", to=TensorProto.FLOAT),
    ]
    model = graph_of(nodes, constants, output=["batch", 5, 1, 1])
    assert found(model) == {("dynamic", REFUSED), ("conv", REFUSED)}


def test_graphs_in_the_operator_format_of_quantize_static_are_refused_node_by_node(tmp_path):
    from onnxruntime.quantization import QuantFormat

    model = stock(tmp_path, quant_format=QuantFormat.QOperator)
    refused = {item.operator for item in lint(model) if item.effect == REFUSED}
    assert {"QLinearConv", "QGemm"} <= refused


def test_types_that_tensorrt_has_not_are_refused():
    constants = {"s": np.float32(0.1), "z": np.int16(0), "w": np.ones((5, 3, 16, 16), np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("Conv", ["d", "w"], ["logits"], "conv"),
    ]
    model = graph_of(nodes, constants, output=["batch", 5, 1, 1], opset=21)
    assert {("q", REFUSED), ("d", REFUSED), ("conv", FLOAT)} == found(model)


def test_a_scale_that_is_computed_is_refused():
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["m"], "max", keepdims=0),
        helper.make_node("QuantizeLinear", ["input", "m", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "m", "z"], ["logits"], "d"),
    ]
    model = graph_of(nodes, {"z": np.int8(0)}, output=["batch", 3, 16, 16])
    assert ("q", REFUSED) in found(model)


def test_half_scales_need_opset_19():
    constants = {"s": np.float16(0.1), "z": np.int8(0)}
    nodes = [
        helper.make_node("Cast", ["input"], ["h"], "cast", to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("Cast", ["d"], ["logits"], "back", to=TensorProto.FLOAT),
    ]
    model = graph_of(nodes, constants, output=["batch", 3, 16, 16], opset=19)
    assert lint(model) == []
    old = graph_of(nodes, constants, output=["batch", 3, 16, 16], opset=19)
    old.opset_import[0].version = 17
    from calibration.lint import _Lint

    checker = _Lint(model)
    checker.opset = 17
    assert {(item.node, item.effect) for item in checker.findings()} == {("q", REFUSED), ("d", REFUSED)}
