"""The lint, on graphs that others write and on damage done on purpose."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.lint import FLOAT, REFUSED, SLOW, WRONG, Finding, lint, require_fusible, verdict
from calibration.lint_rules import Rules
from calibration.qdq import quantise
from engines.errors import GraphError
from export.precision import to_half
from export.structure import topological_sort
from tests.calibration.foreign_graphs import I8, U8, options, placed, single, stock, with_between, with_pool
from tests.calibration.graphs import graph_of, table_of
from tests.calibration.renaming import insert, node_of
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


def test_the_default_output_of_quantize_static_is_refused_for_its_biases(tmp_path):
    model = stock(tiny_graph(), tmp_path)
    refused = {item.node: item.problem for item in lint(model) if item.effect == REFUSED}
    biases = {"conv1.bias_DequantizeLinear", "conv2.bias_DequantizeLinear", "fc1.bias_DequantizeLinear"}
    assert {refused[node] for node in biases} == {"it dequantises an int32 bias"}
    assert refused["relu1_QuantizeLinear"] == "its zero point is -128: asymmetric"
    with pytest.raises(GraphError, match=r"TensorRT refuses node .* \(and \d+ more\)"):
        require_fusible(model, "q.onnx")


def test_uint8_activations_are_said_to_be_read_as_int8(tmp_path):
    model = stock(tiny_graph(), tmp_path, **options("uint8"))
    found = {item.node: item for item in lint(model)}
    assert found["relu1_QuantizeLinear"].effect == WRONG
    assert "uint8 read as int8: half its range is clipped" in found["relu1_QuantizeLinear"].problem
    assert (found["input_QuantizeLinear"].effect, "zero point" in found["input_QuantizeLinear"].problem) == (
        REFUSED, True
    )  # fmt: skip


def test_unsigned_activations_alone_are_refused_before_a_build():
    """NNCF's way: everything else is as TensorRT wants it, so that an engine would be built, with wrong results."""
    model = placed({"input": I8, "relu1": U8})
    assert {(item.node, item.effect) for item in lint(model) if item.fatal} == {("relu1.Q", WRONG)}
    with pytest.raises(GraphError, match=r"silently compute wrong results from node 'relu1\.Q'"):
        require_fusible(model, "m.onnx")
    for name in ("relu1.Q", "relu1.DQ"):  # without a zero point the type is uint8 too
        del node_of(model, name).input[2]
    assert {(item.node, item.effect) for item in lint(model) if item.fatal} == {("relu1.Q", WRONG)}


def test_our_placement_for_onnxruntime_is_not_for_tensorrt():
    master = tiny_graph()
    model = quantise(master, table_of(master), "onnxruntime")
    problems = {item.problem for item in lint(model)}
    assert "it dequantises an int32 bias" in problems
    assert any(problem.startswith("its zero point is") for problem in problems)


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
    assert found(good) == {("conv2", FLOAT)}
    assert lint(good)[0].problem == "its data has 8 scales, one a channel"


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

    model = stock(tiny_graph(), tmp_path, quant_format=QuantFormat.QOperator)
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
    rules = Rules(model)
    rules.opset = 17
    assert {(item.node, item.effect) for item in rules.findings()} == {("q", REFUSED), ("d", REFUSED)}


def test_the_verdict_is_one_line_that_counts_nodes():
    def of(*effects):
        return [Finding(f"n{number}", "Conv", effect, "", "") for number, effect in enumerate(effects)]

    assert verdict([], 8) == "nothing that it would refuse or silently run in float"
    assert verdict(of(FLOAT, FLOAT), 8) == "would run 2 of 8 convolutions and matrix products in float"
    assert verdict(of(REFUSED, REFUSED, WRONG, FLOAT, SLOW), 4) == (
        "would refuse 2 nodes, compute wrong results from 1 node, run 1 of 4 convolutions and matrix products in "
        "float, run slower because of 1 node"
    )
    twice = [Finding("n", "QuantizeLinear", REFUSED, problem, "") for problem in ("a", "b")]
    assert verdict(twice, 4) == "would refuse 1 node"


def test_what_stands_between_a_layer_and_its_quantised_data_is_named():
    (finding,) = lint(with_between("Relu"))
    assert finding.problem == "its data is not quantised: Relu stands between it and DequantizeLinear"


def test_a_transposed_convolution_is_a_note_since_tensorrt_has_one():
    model = single("ConvTranspose", (8, 4, 2, 2), 1, 4, kernel_shape=[2, 2], strides=[2, 2])
    assert found(model) == {("layer", FLOAT)}
    assert len(require_fusible(model, "m.onnx")) == 1
    wrong = single("ConvTranspose", (8, 4, 2, 2), 0, 8, kernel_shape=[2, 2], strides=[2, 2])
    with pytest.raises(GraphError, match="axis 0, not 1"):
        require_fusible(wrong, "m.onnx")


def test_a_computed_scale_is_said_to_crash_the_builder():
    model = with_pool()
    insert(model, "conv1", helper.make_node("ReduceMax", ["input"], ["m"], "max", keepdims=0))
    for name in ("pool.quantized", "pool.dequantized"):
        node_of(model, name).input[1] = "m"
    assert {item.problem for item in lint(model)} == {
        "its scale is computed at run time, on which the builder crashes"
    }
