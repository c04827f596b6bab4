"""Ranges of other tools' quantised graphs, taken over to the master."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.foreign import match_names, take_over
from calibration.foreign_scales import alike, found_ranges
from calibration.lint import lint
from calibration.qdq import quantise
from calibration.table import CalibrationTable, TensorRange
from engines.errors import GraphError, TableError
from export.graph import topological_sort, weights_digest
from tests.calibration.foreign_graphs import I8, U8, options, placed, stock
from tests.calibration.graphs import IMAGES, UNSEEN, graph_of, residual_graph, run, sqnr, table_of
from tests.calibration.renaming import copy_of, give, insert, node_of, renamed, values_of
from tests.tiny import tiny_graph


@pytest.mark.parametrize("model", [tiny_graph(), renamed(tiny_graph()), residual_graph()], ids=["", "names", "adds"])
@pytest.mark.parametrize("name", ["defaults", "uint8", "int16", "symmetric", "pairs"])
def test_min_max_ranges_of_quantize_static_are_our_own_min_max_ranges(tmp_path, model, name):
    master = residual_graph() if "add" in {node.name for node in model.graph.node} else tiny_graph()
    table = take_over(stock(model, tmp_path, **options(name)), master)
    own = table_of(master)
    assert list(table.ranges) == list(own.ranges)
    assert (table.method, table.weights, table.keep) == ("foreign", weights_digest(master), ())
    assert table.facts["source"].startswith("Q/DQ graph written by onnx.quantize")
    for tensor, found in table.ranges.items():
        assert found.amax == pytest.approx(own.ranges[tensor].amax, rel=0.01)
        if name in {"defaults", "uint8"}:  # asymmetric: they tell the lower end too
            assert found.low == pytest.approx(own.ranges[tensor].low, abs=0.01 * found.amax)
        assert found.signature
    for target in ("tensorrt", "onnxruntime"):
        quantised = quantise(master, table, target, remainder="fp32")
        assert sqnr(run(master, UNSEEN), run(quantised, UNSEEN)) > 20
    assert lint(quantise(master, table, "tensorrt")) == []


def test_scales_become_ranges_by_their_type():
    """Hand-computed: scale 0.02 times the numbers of the type."""

    def taken(zero) -> TensorRange:
        return take_over(placed({"input": zero}), tiny_graph()).ranges["input"]

    def near(*values):
        return pytest.approx(values, rel=1e-6)

    for zero, amax, low, high in (
        (np.int8(0), 2.54, -2.54, 2.54),
        (np.int8(-128), 5.1, 0.0, 5.1),
        (np.int8(28), 3.12, -3.12, 1.98),
        (np.uint8(0), 5.1, 0.0, 5.1),
        (np.uint8(128), 2.56, -2.56, 2.54),
        (np.int16(0), 655.34, -655.34, 655.34),
    ):
        found = taken(zero)
        assert (found.amax, found.minimum, found.maximum) == near(amax, low, high)


def test_ranges_of_fp8_make_a_table_for_fp8():
    model = placed({"input": I8, "pool": I8})
    zero = helper.make_tensor("z8", TensorProto.FLOAT8E4M3FN, [], [0.0])
    model.graph.initializer.append(zero)
    for name in ("input.Q", "input.DQ", "pool.Q", "pool.DQ"):
        node_of(model, name).input[2] = "z8"
    table = take_over(model, tiny_graph())
    assert table.precision == "fp8"
    assert table.ranges["input"].amax == pytest.approx(0.02 * 448)


def test_what_the_foreign_graph_leaves_in_float_is_kept_and_nothing_is_guessed():
    """As Model Optimizer writes it: inputs of convolutions only, products in float."""
    master = tiny_graph()
    table = take_over(placed({"input": I8, "pool": I8}), master)
    assert table.keep == ("fc1", "fc2")
    assert set(table.ranges) == {"input", "relu1"}  # the pool's range serves what it pools
    assert table.facts["not quantised there"] == ["relu2", "relu3"]
    quantised = quantise(master, table, "tensorrt")
    assert {item.node for item in lint(quantised)} == {"fc1", "fc2"}


def test_of_several_scales_for_one_range_the_widest_serves():
    model = placed({"input": I8, "relu1": I8, "pool": I8})
    give(model, **{"relu1.s": np.float32(0.03)})
    assert take_over(model, tiny_graph()).ranges["relu1"].amax == pytest.approx(0.03 * 127)


def test_nncfs_unsigned_activations_keep_their_whole_range():
    """NNCF writes uint8 with zero point 0 behind a ReLU, which TensorRT would read as int8."""
    model = placed({"input": I8, "relu1": U8, "relu2": U8, "relu3": U8})
    assert {item.effect for item in lint(model)} >= {"wrong results"}
    table = take_over(model, tiny_graph())
    assert {name: round(item.amax, 4) for name, item in table.ranges.items()} == {
        "input": 2.54, "relu1": 5.1, "relu2": 5.1, "relu3": 5.1
    }  # fmt: skip
    assert lint(quantise(tiny_graph(), table, "tensorrt")) == []


def test_pytorchs_linear_layers_are_found_in_gemms():
    """Its quantised export has MatMul with a transposed weight and an Add where the master has Gemm."""
    model = placed({"input": I8, "pool": I8, "flat": I8, "relu3": I8})
    for name in ("fc1", "fc2"):
        node, weight = node_of(model, name), values_of(model, f"{name}.weight")
        step = np.float32(np.abs(weight).max() / 127)
        give(model, **{f"{name}.w8": np.rint(weight / step).astype(np.int8), f"{name}.ws": step})
        result = node.output[0]
        insert(
            model,
            name,
            helper.make_node("DequantizeLinear", [f"{name}.w8", f"{name}.ws"], [f"{name}.w"]),
            helper.make_node("Transpose", [f"{name}.w"], [f"{name}.wt"], perm=[1, 0]),
            helper.make_node("MatMul", [node.input[0], f"{name}.wt"], [f"{name}.product"], f"{name}.matmul"),
        )
        node.op_type, node.input[:], node.output[0] = "Add", [f"{name}.product", f"{name}.bias"], result
        node.ClearField("attribute")
    onnx.checker.check_model(model, full_check=True)
    table = take_over(renamed(model), tiny_graph())
    assert table.keep == ()
    assert list(table.ranges) == ["input", "relu1", "relu2", "relu3"]
    give(model, **{"fc2.w8": np.rint(np.random.default_rng(0).normal(0, 40, (5, 32))).astype(np.int8)})
    with pytest.raises(TableError, match=r"weights of 'fc2\.matmul' in the graph aren't those of 'fc2'"):
        take_over(model, tiny_graph())


def test_a_scale_a_channel_becomes_one_range_and_that_is_told():
    model = placed({"input": I8, "pool": I8})
    give(model, **{"pool.s": np.linspace(0.01, 0.04, 8, dtype=np.float32), "pool.z": np.zeros(8, np.int8)})
    for name in ("pool.Q", "pool.DQ"):
        node_of(model, name).attribute.append(helper.make_attribute("axis", 1))
    table = take_over(model, tiny_graph())
    assert table.ranges["relu1"].amax == pytest.approx(0.04 * 127)
    assert table.facts["one range for all channels"] == ["pool"]


def test_branches_of_one_shape_are_not_mixed_up(tmp_path):
    """conv3 and conv4 read the same tensor and have the same shape: only their order and weights tell them apart."""
    master = residual_graph()
    other = renamed(stock(master, tmp_path, **options("symmetric")))
    table, own = take_over(other, master), table_of(master)
    assert own.ranges["c3"].amax != pytest.approx(own.ranges["c4"].amax, rel=0.02)
    for name in ("c3", "c4"):
        assert table.ranges[name].amax == pytest.approx(own.ranges[name].amax, rel=0.01)


def test_a_graph_of_other_weights_is_refused(tmp_path):
    for model in (tiny_graph(seed=5), renamed(tiny_graph(seed=5))):
        foreign = stock(model, tmp_path)
        with pytest.raises(TableError, match="aren't those of 'conv1' in the master graph"):
            take_over(foreign, tiny_graph())


def test_another_network_is_refused(tmp_path):
    foreign = stock(residual_graph(), tmp_path)
    with pytest.raises(TableError, match="aren't those of 'conv1'"):
        take_over(foreign, tiny_graph())
    conv = helper.make_node("Conv", ["input", "w"], ["logits"], "conv")
    other = graph_of([conv], {"w": np.ones((5, 3, 16, 16), np.float32)}, output=["batch", 5, 1, 1])
    with pytest.raises(TableError, match="another structure than the master graph: 'r1' isn't found there"):
        take_over(foreign, other)


def test_a_graph_without_static_ranges_is_refused_with_the_reason(tmp_path):
    from onnxruntime.quantization import QuantFormat

    master = tiny_graph()
    with pytest.raises(TableError, match="quantises no activation"):
        take_over(master, master)
    with pytest.raises(TableError, match="in place of Q/DQ nodes"):
        take_over(stock(master, tmp_path, quant_format=QuantFormat.QOperator), master)
    dynamic = placed({"input": I8})
    insert(dynamic, "input.Q", helper.make_node("ReduceMax", ["input"], ["input.max"], "max", keepdims=0))
    for name in ("input.Q", "input.DQ"):
        node_of(dynamic, name).input[1] = "input.max"
    with pytest.raises(TableError, match="at run time"):
        take_over(dynamic, master)
    with pytest.raises(GraphError, match="not a master graph"):
        take_over(placed({"input": I8}), placed({"input": I8}))


def test_weights_are_alike_but_for_rounding_and_a_factor_a_channel():
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (16, 8, 3, 3)).astype(np.float32)
    four_bits = (np.rint(weight / (np.abs(weight).max() / 7)) * (np.abs(weight).max() / 7)).astype(np.float32)
    factors = rng.uniform(-2, 2, (16, 1, 1, 1)).astype(np.float32)
    assert alike(weight, four_bits, 0)
    assert alike(weight, weight * factors, 0)
    assert not alike(weight, weight[::-1], 0)
    assert not alike(weight, rng.normal(0, 1, weight.shape).astype(np.float32), 0)
    assert not alike(weight, np.zeros_like(weight), 0)
    assert not alike(weight, weight[:8], 0)
    assert alike(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), 0)


def test_weights_count_as_what_they_stand_for_and_are_no_activations():
    model = placed({"input": I8})
    weight = values_of(model, "conv1.weight")
    give(model, wf=weight)
    insert(model, "conv1", helper.make_node("QuantizeLinear", ["wf", "conv1.ws", "input.z"], ["wq"], "wQ"))
    dequantise = next(node for node in model.graph.node if "conv1.w" in node.output)
    dequantise.input[0] = "wq"
    topological_sort(model.graph)
    found, dynamic = found_ranges(model)
    assert ([item.tensor for item in found], dynamic) == (["input"], [])
    assert take_over(model, tiny_graph()).keep == ("conv2", "fc1", "fc2")


def cache(**ranges: float) -> CalibrationTable:
    return CalibrationTable(
        {name: TensorRange(amax, -amax, amax, name) for name, amax in ranges.items()}, "entropy", ""
    )


def test_a_table_of_any_tensors_serves_the_groups_they_belong_to():
    master = tiny_graph()
    table = match_names(cache(input=1.0, pool=2.0, relu1=1.5, flat=3.0, relu3=4.0, logits=9.0), master)
    assert {name: item.amax for name, item in table.ranges.items()} == {
        "input": 1.0, "relu1": 2.0, "relu2": 3.0, "relu3": 4.0
    }  # fmt: skip
    assert table.ranges["relu1"].low == 0.0
    assert table.weights == weights_digest(master)
    assert lint(quantise(master, table, "tensorrt")) == []


def test_a_cache_that_lacks_tensors_is_refused_with_the_first_named():
    with pytest.raises(TableError, match=r"no range for tensor 'flat' \(and 1 more\)"):
        match_names(cache(input=1.0, relu1=2.0), tiny_graph())


def test_a_folded_batch_normalization_is_found():
    """The master has it behind its convolution; the foreign graph has it in the weights."""
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.3, (5, 3, 16, 16)).astype(np.float32)
    parameters = {
        "g": rng.uniform(0.5, 2, 5), "b": rng.normal(0, 1, 5), "m": rng.normal(0, 1, 5), "v": rng.uniform(0.5, 2, 5)
    }  # fmt: skip
    constants = {"w": weight, "k": np.ones((5, 5, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", *parameters], ["n"], "norm", epsilon=0.0),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "k"], ["logits"], "last"),
    ]
    master = graph_of(
        nodes,
        constants | {name: values.astype(np.float32) for name, values in parameters.items()},
        output=["batch", 5, 1, 1],
    )
    factor = (parameters["g"] / np.sqrt(parameters["v"])).astype(np.float32)
    bias = (parameters["b"] - parameters["m"] * factor).astype(np.float32)
    constants = {"fw": weight * factor.reshape(-1, 1, 1, 1), "fb": bias, "k": constants["k"]}

    def folded(*pairs: onnx.NodeProto) -> onnx.ModelProto:
        end = ".d" if pairs else ""
        nodes = [
            *pairs[:2],
            helper.make_node("Conv", [f"input{end}", "fw", "fb"], ["fc"], "c"),
            helper.make_node("Relu", ["fc"], ["fr"], "r"),
            *pairs[2:],
            helper.make_node("Conv", [f"fr{end}", "k"], ["logits"], "l"),
        ]
        scale = {"s": np.float32(0.05), "z": np.int8(0)} if pairs else {}
        return graph_of(nodes, constants | scale, output=["batch", 5, 1, 1])

    pairs = [
        helper.make_node(op, [source, "s", "z"], [result])
        for tensor in ("input", "fr")
        for op, source, result in (
            ("QuantizeLinear", tensor, f"{tensor}.q"),
            ("DequantizeLinear", f"{tensor}.q", f"{tensor}.d"),
        )
    ]
    np.testing.assert_allclose(run(folded(), IMAGES[:4]), run(master, IMAGES[:4]), rtol=1e-4, atol=1e-3)
    table = take_over(folded(*pairs), master)
    assert table.ranges["r"].amax == pytest.approx(0.05 * 127)
    assert table.keep == ()


def test_other_float_types_of_the_remainder_change_nothing():
    from export.precision import to_half

    table = take_over(to_half(placed({"input": I8, "pool": I8}), "fp16"), tiny_graph())
    assert table.ranges["relu1"].amax == pytest.approx(0.02 * 127, rel=1e-3)
    assert table.keep == ("fc1", "fc2")


def test_constants_of_a_foreign_graph_may_be_nodes():
    model = placed({"input": I8})
    scale = next(item for item in model.graph.initializer if item.name == "input.s")
    value = onnx.TensorProto()
    value.CopyFrom(scale)
    model.graph.initializer.remove(scale)
    insert(model, "input.Q", helper.make_node("Constant", [], ["input.s"], "k", value=value))
    assert take_over(model, tiny_graph()).ranges["input"].amax == pytest.approx(2.54)
    assert numpy_helper.to_array(value) == np.float32(0.02)
    assert copy_of(model) == model


def test_parameters_that_do_not_fit_each_other_are_an_error_and_no_crash():
    model = placed({"input": I8, "pool": I8})
    give(model, **{"pool.z": np.zeros(3, np.int8), "pool.s": np.full(8, 0.02, np.float32)})
    with pytest.raises(TableError, match=r"zero point of 'pool\.Q' differ in size"):
        take_over(model, tiny_graph())
    model = placed({"input": I8, "pool": I8})
    give(model, **{"conv1.ws": np.full(5, 0.02, np.float32)})  # conv1 can't be compared, conv2 still is
    assert take_over(model, tiny_graph()).ranges["relu1"].amax == pytest.approx(2.54)
