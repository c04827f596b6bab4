"""Q/DQ placement for both targets: structure, arithmetic, accuracy, and what the libraries make of it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.lint import lint
from calibration.qdq import quantise
from calibration.ranges import Ranges
from calibration.weights import half_up, quantise_weight
from engines.errors import GraphError, InputError, TableError
from export.graph import layer_types, read_derived, read_metadata, save_graph, weights_digest
from export.structure import producers
from tests.calibration.graphs import (
    UNSEEN,
    given_table,
    graph_of,
    optimised_operators,
    residual_graph,
    run,
    sqnr,
    table_of,
)
from tests.tiny import METADATA, tiny_graph

TARGETS = ("tensorrt", "onnxruntime")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lrn", [False, True])
def test_int8_graphs_are_valid_and_close_to_the_master(target, lrn):
    master = tiny_graph(lrn=lrn)
    before = master.SerializeToString()
    model = quantise(master, table_of(master, "entropy"), target)
    onnx.checker.check_model(model, full_check=True)
    assert master.SerializeToString() == before
    reference = run(master, UNSEEN)
    found = run(model, UNSEEN, optimised=target == "onnxruntime")
    assert sqnr(reference, found) > 28
    assert sum(item.op_type == "LRN" for item in model.graph.node) == lrn


@pytest.mark.parametrize("target", TARGETS)
def test_every_convolution_and_product_is_int8_and_the_graph_says_what_it_is(target):
    master = tiny_graph(lrn=True)
    table = table_of(master)
    model = quantise(master, table, target)
    assert {layer.type for layer in layer_types(model)} == {"int8"}
    derived = read_derived(model)
    assert (derived.precision, derived.placement, derived.table) == ("int8", target, table.digest())
    assert derived.weights == weights_digest(master)
    assert derived.remainder == ("fp16" if target == "tensorrt" else "fp32")
    assert read_metadata(model) == METADATA


def test_for_tensorrt_only_inputs_of_weighted_operators_are_quantised():
    master = tiny_graph(lrn=True)
    model = quantise(master, table_of(master), "tensorrt")
    made_by = producers(model.graph)
    quantised = {item.input[0] for item in model.graph.node if item.op_type == "QuantizeLinear"}
    assert {made_by[name].name for name in quantised if name in made_by} == {"input.fp16", "pool", "flatten", "relu3"}
    for item in model.graph.node:
        if item.op_type in {"Conv", "Gemm"}:
            assert [made_by[name].op_type for name in item.input[:2]] == ["DequantizeLinear"] * 2
            assert item.input[2] in constants(model)  # the bias is a plain constant
        elif item.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            assert all(made_by[name].op_type != "DequantizeLinear" for name in item.input if name in made_by)
    for item in model.graph.node:
        if item.op_type == "QuantizeLinear":
            zero = constants(model)[item.input[2]]
            assert (zero.dtype, int(zero)) == (np.int8, 0)
    assert lint(model) == []


def test_for_tensorrt_convolutions_have_float16_scales_and_products_float32_ones():
    master = tiny_graph()
    model = quantise(master, table_of(master), "tensorrt")
    values, made_by = constants(model), producers(model.graph)
    for name in ("conv1", "conv2"):
        assert {values[made_by[item].input[1]].dtype for item in node(model, name).input[:2]} == {np.dtype("float16")}
    for name in ("fc1", "fc2"):
        assert {values[made_by[item].input[1]].dtype for item in node(model, name).input[:2]} == {np.dtype("float32")}


def test_weights_are_symmetric_int8_a_scale_an_output_channel():
    master = tiny_graph()
    original = constants(master)
    for target in TARGETS:
        model = quantise(master, table_of(master), target)
        values, made_by = constants(model), producers(model.graph)
        for name in ("conv1", "conv2", "fc1", "fc2"):
            dequantise = made_by[node(model, name).input[1]]
            stored, scales, zero = (values[item] for item in dequantise.input)
            weight = original[f"{name}.weight"]
            assert (stored.dtype, stored.shape, scales.shape) == (np.int8, weight.shape, (len(weight),))
            assert not zero.any()
            assert onnx.helper.get_node_attr_value(dequantise, "axis") == 0
            steps = scales.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
            assert np.abs(stored * steps - weight).max() <= steps.max() / 2 + 1e-7
            assert np.abs(stored).max() <= 127


@pytest.mark.parametrize("target", TARGETS)
def test_a_single_product_computes_what_integer_arithmetic_says(target):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1, (5, 12)).astype(np.float32), rng.normal(0, 1, 5).astype(np.float32)
    gemm = helper.make_node("Gemm", ["input", "w", "b"], ["logits"], "fc", transB=1)
    master = graph_of([gemm], {"w": weight, "b": bias}, shape=["batch", 12])
    model = quantise(master, given_table(master, input=(2.0, -1.5, 4.0)), target, remainder="fp32")
    feed = rng.normal(0, 1.5, (64, 12)).astype(np.float32)

    weight_steps = np.abs(weight).max(axis=1) / np.float32(127)
    weights = np.rint(weight / weight_steps[:, None])
    if target == "tensorrt":  # [-2, 2] in 254 steps, the step rounded up to a float16
        step = float(half_up(np.array([np.float32(2 / 127)]))[0])
        inputs = np.clip(np.rint(feed / np.float32(step)), -128, 127)
        expected = (inputs @ weights.T) * step * weight_steps + bias
    else:  # what was seen, clipped at amax: [-1.5, 2] in 255 steps
        step = np.float32(3.5 / 255)
        zero = np.rint(1.5 / step)
        inputs = np.clip(np.rint(feed / step) + zero, 0, 255) - zero
        biases = np.rint(bias / (weight_steps * step))
        expected = (inputs @ weights.T + biases) * step * weight_steps
    found = run(model, feed, optimised=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_for_onnxruntime_everything_runs_in_integer_kernels(tmp_path):
    master = tiny_graph()
    model = quantise(master, table_of(master), "onnxruntime")
    found = optimised_operators(model, tmp_path)
    assert found.count("QLinearConv") == 2
    assert found.count("QGemm") == 2
    assert not {"Conv", "Gemm", "FusedConv", "FusedGemm", "Relu"} & set(found)
    assert found.count("QuantizeLinear") == 1  # of the input


def test_for_onnxruntime_an_lrn_is_all_that_stays_float(tmp_path):
    master = tiny_graph(lrn=True)
    found = optimised_operators(quantise(master, table_of(master), "onnxruntime"), tmp_path)
    assert found.count("QLinearConv") == 2
    assert found.count("LRN") == 1
    assert not {"Conv", "Gemm", "Relu"} & set(found)


def test_for_onnxruntime_joined_branches_and_averages_run_in_integer_kernels(tmp_path):
    master = residual_graph()
    model = quantise(master, table_of(master), "onnxruntime")
    found = optimised_operators(model, tmp_path)
    assert found.count("QLinearConv") == 4
    assert {"QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool", "QGemm"} <= set(found)
    assert not {"Conv", "Add", "Concat", "GlobalAveragePool", "Gemm"} & set(found)
    assert sqnr(run(master, UNSEEN), run(model, UNSEEN)) > 25


def test_for_onnxruntime_activations_use_all_256_values_and_biases_are_int32():
    master = tiny_graph()
    table = table_of(master)
    model = quantise(master, table, "onnxruntime")
    values, made_by = constants(model), producers(model.graph)
    for item in model.graph.node:
        if item.op_type != "QuantizeLinear":
            continue
        zero, step = values[item.input[2]], values[item.input[1]]
        assert zero.dtype == np.uint8
        found = table.ranges[Ranges(master).root(item.input[0])]
        assert step == pytest.approx((found.high - found.low) / 255, rel=1e-6)
        assert (int(zero) == 0) == (found.minimum >= 0)
    bias = made_by[node(model, "conv2").input[2]]
    stored, scales, _ = (values[name] for name in bias.input)
    data, weight = (values[made_by[name].input[1]] for name in node(model, "conv2").input[:2])
    assert stored.dtype == np.int32
    np.testing.assert_array_equal(scales, data * weight)
    np.testing.assert_allclose(stored * scales, constants(master)["conv2.bias"], atol=scales.max() / 2)


def test_a_bias_too_large_for_int32_widens_the_scale_of_its_channel():
    master = tiny_graph()
    bias = next(item for item in master.graph.initializer if item.name == "conv1.bias")
    weight = next(item for item in master.graph.initializer if item.name == "conv1.weight")
    values, weights = numpy_helper.to_array(bias).copy(), numpy_helper.to_array(weight).copy()
    values[2], weights[2] = 50.0, 1e-12
    bias.CopyFrom(numpy_helper.from_array(values, "conv1.bias"))
    weight.CopyFrom(numpy_helper.from_array(weights, "conv1.weight"))
    model = quantise(master, table_of(master), "onnxruntime")
    assert sqnr(run(master, UNSEEN), run(model, UNSEEN)) > 25


@pytest.mark.parametrize("target", TARGETS)
def test_layers_kept_back_stay_in_float_and_the_rest_is_quantised(target):
    master = tiny_graph()
    model = quantise(master, table_of(master), target, keep=["conv1", "fc2"])
    types = {layer.name: layer.type for layer in layer_types(model)}
    assert types["conv2"] == types["fc1"] == "int8"
    assert types["conv1"] != "int8"
    assert types["fc2"] != "int8"
    assert sqnr(run(master, UNSEEN), run(model, UNSEEN, optimised=False)) > 28


def test_for_tensorrt_a_residual_quantises_the_branch_only():
    master = residual_graph()
    model = quantise(master, table_of(master), "tensorrt")
    made_by = producers(model.graph)
    kinds = [made_by[name].op_type for name in node(model, "add").input]
    assert kinds == ["Conv", "DequantizeLinear"]
    # conv2 and the Add read r1 through one and the same pair
    assert made_by[node(model, "add").input[1]].name == made_by[node(model, "conv2").input[0]].name
    assert [made_by[name].op_type for name in node(model, "concat").input] == ["Conv", "Conv"]
    assert lint(model) == []
    assert sqnr(run(master, UNSEEN), run(model, UNSEEN, optimised=False)) > 25


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("transposed", [0, 1])
def test_factors_and_layouts_of_a_gemm_are_honoured(target, transposed):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1, (5, 12)).astype(np.float32), rng.normal(0, 1, 5).astype(np.float32)
    gemm = helper.make_node("Gemm", ["input", "w", "b"], ["logits"], "fc", transB=transposed, alpha=0.5, beta=3.0)
    master = graph_of([gemm], {"w": weight if transposed else weight.T.copy(), "b": bias}, shape=["batch", 12])
    feed = rng.uniform(-2, 2, (64, 12)).astype(np.float32)
    model = quantise(master, given_table(master, input=(2.0, -2.0, 2.0)), target)
    expected = 0.5 * feed @ weight.T + 3 * bias
    assert sqnr(expected, run(model, feed, optimised=target == "onnxruntime")) > 35


@pytest.mark.parametrize("target", TARGETS)
def test_a_matmul_is_quantised_along_its_last_axis(target):
    rng = np.random.default_rng(0)
    weight = (rng.normal(0, 1, (12, 5)) * [1, 10, 100, 0.1, 0]).astype(np.float32)
    master = graph_of(
        [helper.make_node("MatMul", ["input", "w"], ["logits"], "fc")], {"w": weight}, shape=["batch", 12]
    )
    model = quantise(master, given_table(master, input=(2.0, -2.0, 2.0)), target)
    feed = rng.uniform(-2, 2, (64, 12)).astype(np.float32)
    found = run(model, feed)
    for column in range(4):
        assert sqnr((feed @ weight)[:, column], found[:, column]) > 35
    assert not found[:, 4].any()


def test_a_convtranspose_is_quantised_along_axis_1_for_tensorrt_and_left_to_float_elsewhere():
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("ConvTranspose", ["input", "w"], ["up"], "up", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["up"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "wf"], ["logits"], "fc", transB=1),
    ]
    weights = {
        "w": rng.normal(0, 1, (3, 4, 2, 2)).astype(np.float32),
        "wf": rng.normal(0, 1, (5, 4)).astype(np.float32),
    }
    master = graph_of(nodes, weights)
    table = table_of(master)
    model = quantise(master, table, "tensorrt")
    dequantise = producers(model.graph)[node(model, "up").input[1]]
    assert onnx.helper.get_node_attr_value(dequantise, "axis") == 1
    assert not any(finding.fatal for finding in lint(model))
    types = {layer.name: layer.type for layer in layer_types(quantise(master, table, "onnxruntime"))}
    assert types == {"up": "fp32", "fc": "int8"}


def test_weights_of_a_dead_channel_are_zeros_with_a_usable_scale():
    stored, scales = quantise_weight(np.array([[0, 0], [1, -2]], np.float32), 0)
    assert stored.tolist() == [[0, 0], [64, -127]]
    assert scales.tolist() == [1.0, np.float32(2) / np.float32(127)]


def test_half_up_gives_the_next_float16_and_never_less():
    values = np.random.default_rng(0).uniform(1e-8, 10, 1000).astype(np.float32) ** 3
    found = half_up(values)
    np.testing.assert_array_equal(found, found.astype(np.float16))
    assert (found >= values).all()
    below = np.nextafter(found.astype(np.float16), np.float16(0)).astype(np.float32)
    assert (below < values).all()
    assert half_up(np.array([1e9], np.float32))[0] == 65504


def test_a_stale_table_a_quantised_graph_and_unknown_names_are_refused():
    master, other = tiny_graph(), tiny_graph(seed=1)
    table = table_of(master)
    with pytest.raises(TableError, match="weights"):
        quantise(other, table, "tensorrt")
    with pytest.raises(GraphError, match="int8 already"):
        quantise(quantise(master, table, "onnxruntime"), table, "onnxruntime")
    with pytest.raises(InputError, match="'conv9'"):
        quantise(master, table, "tensorrt", keep=["conv9"])
    with pytest.raises(InputError, match="'openvino'"):
        quantise(master, table, "openvino")
    with pytest.raises(GraphError, match="no convolution"):
        quantise(master, table, "tensorrt", keep=["conv1", "conv2", "fc1", "fc2"])
    with pytest.raises(TableError, match="'relu2'"):
        partial = type(table)({k: v for k, v in table.ranges.items() if k != "relu2"}, "minmax", table.weights)
        quantise(master, partial, "tensorrt")


def test_an_activation_that_is_always_zero_can_be_quantised():
    master = tiny_graph()
    table = given_table(master, input=(2.7, -2.7, 2.7), relu1=(0, 0, 0), relu2=(3, 0, 3), relu3=(3, 0, 3))
    for target in TARGETS:
        assert np.isfinite(run(quantise(master, table, target), UNSEEN, optimised=False)).all()


@pytest.mark.parametrize("name", ["plain", "lrn", "residual"])
def test_tensorrt_for_rtx_builds_every_layer_in_int8(tmp_path, name):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from engines.builders.audit import audit
    from engines.builders.tensorrt import build_plan

    master = residual_graph() if name == "residual" else tiny_graph(lrn=name == "lrn")
    model = quantise(master, table_of(master), "tensorrt")
    save_graph(model, tmp_path / "m.int8.onnx")
    built = build_plan(tmp_path / "m.int8.onnx", "tensorrt-rtx")
    audit(built.layers, "int8")


def test_tensorrt_for_rtx_keeps_the_product_of_scales_in_float32(tmp_path):
    """In half precision the plan would hold scales that are subnormal, and sums that overflow."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from engines.builders.tensorrt import build_plan

    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.01, (32, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["input"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w", "b"], ["logits"], "fc", transB=1),
    ]
    master = graph_of(nodes, {"w": weight, "b": weight[:, 0]}, shape=["batch", 64], output=["batch", 32])
    model = quantise(master, given_table(master, r=(0.01, 0.0, 0.01)), "tensorrt")
    save_graph(model, tmp_path / "m.int8.onnx")
    plan = bytes(build_plan(tmp_path / "m.int8.onnx", "tensorrt-rtx").data)
    step = half_up(np.array([np.float32(0.01) / np.float32(127)]))[0]
    scales = np.abs(weight).max(axis=1) / np.float32(127) * step
    assert scales.max() < 2.0**-24 * 0.6  # a float16 would hold zeros
    assert scales.astype(np.float32).tobytes() in plan


def test_graphs_of_other_float_types_are_left_to_their_types():
    cast = helper.make_node("Cast", ["input"], ["half"], "cast", to=TensorProto.FLOAT16)
    conv = helper.make_node("Conv", ["half", "w"], ["c"], "conv")
    back = helper.make_node("Cast", ["c"], ["logits"], "back", to=TensorProto.FLOAT)
    master = graph_of([cast, conv, back], {"w": np.ones((5, 3, 16, 16), np.float16)}, output=["batch", 5, 1, 1])
    with pytest.raises(GraphError, match="no convolution"):
        quantise(master, given_table(master), "tensorrt")
