"""Bias correction: what is measured is a quantised layer's own mean error, and taking it off helps."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.beside import beside
from calibration.bias import measure_biases
from calibration.equalise import equalise
from calibration.qdq import quantise
from calibration.shift import shift_biases
from calibration.table import CalibrationTable
from engines.errors import DataError, InputError, TableError
from engines.sessions.onnxruntime import UNFAITHFUL
from export.structure import label
from tests.calibration.graphs import IMAGES, UNSEEN, given_table, graph_of, residual_graph, sqnr, table_of
from tests.tiny import tiny_graph

make = helper.make_node


def run(model: onnx.ModelProto, feed: np.ndarray, *names: str) -> list[np.ndarray]:
    """Tensors of a graph as it is written, Q/DQ and all."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names or ("logits",))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[*UNFAITHFUL, "ReluQuantRewrite"],
    )
    return session.run(None, {session.get_inputs()[0].name: feed})


def clipped(table: CalibrationTable, share: float) -> CalibrationTable:
    """Ranges that cut off part of what was seen, which shifts means."""
    ranges = {name: replace(found, amax=found.amax * share) for name, found in table.ranges.items()}
    return replace(table, ranges=ranges)


def quantised(model: onnx.ModelProto, table: CalibrationTable) -> onnx.ModelProto:
    return quantise(model, table, "tensorrt", remainder="fp32")


GRAPHS = {"tiny": tiny_graph, "lrn": lambda: tiny_graph(lrn=True), "residual": residual_graph}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_main_path_is_the_fp32_graph_and_beside_it_runs_each_quantised_node(name, precision):
    """Each error equals that of a graph in which one node is quantised and nothing before it."""
    model = GRAPHS[name]()
    table = replace(clipped(table_of(model), 0.6), precision=precision)
    graph, errors = beside(model, table)
    weighted = {label(node): node for node in model.graph.node if node.op_type in {"Conv", "Gemm"}}
    assert set(errors) == set(weighted)
    results = [node.output[0] for node in weighted.values()]
    for found, expected in zip(run(graph, UNSEEN, *results), run(model, UNSEEN, *results), strict=True):
        np.testing.assert_array_equal(found, expected)
    for node in weighted.values():
        keep = sorted(set(weighted) - {node.name})
        alone = run(quantise(model, table, "tensorrt", keep, remainder="fp32"), UNSEEN, node.output[0])[0]
        if name != "residual":  # where the Add reads a quantised branch too
            difference = alone - run(model, UNSEEN, node.output[0])[0]
            mean = difference.mean(axis=tuple(axis for axis in range(alone.ndim) if axis != 1))
            np.testing.assert_allclose(run(graph, UNSEEN, errors[node.name])[0], mean, atol=2e-6)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_corrected_means_are_those_of_the_fp32_graph_and_the_logits_come_closer(name, precision):
    model = GRAPHS[name]()
    table = replace(clipped(table_of(model), 1.0 if precision == "fp8" else 0.5), precision=precision)
    shifts = measure_biases(model, table, [IMAGES[:100], IMAGES[100:256]])
    corrected = replace(table, biases=shifts)
    again = measure_biases(model, corrected, [IMAGES[:256]])  # biases in the table don't change what is measured
    assert {name: pytest.approx(found, abs=1e-5) for name, found in again.items()} == shifts

    first = next(node for node in model.graph.node if node.op_type == "Conv")
    reference, plain, better = (
        run(item, IMAGES[:256], first.output[0])[0].mean(axis=(0, 2, 3))
        for item in (model, quantised(model, table), quantised(model, corrected))
    )
    assert np.abs(plain - reference).max() > 1e-3 * np.abs(reference).max()
    assert np.abs(better - reference).max() < 0.02 * np.abs(plain - reference).max()

    logits, plain, better = (
        run(item, UNSEEN)[0] for item in (model, quantised(model, table), quantised(model, corrected))
    )
    assert np.abs((better - logits).mean(axis=0)).sum() < np.abs((plain - logits).mean(axis=0)).sum()
    assert sqnr(logits, better) > sqnr(logits, plain) + 0.5


def test_the_mean_is_over_all_images_however_they_are_batched():
    model = tiny_graph()
    table = clipped(table_of(model), 0.5)
    once = measure_biases(model, table, [IMAGES[:60]])
    for sizes in ([1, 59], [20, 20, 20], [50, 10]):
        parts = np.split(IMAGES[:60], np.cumsum(sizes)[:-1])
        found = measure_biases(model, table, parts, threads=1)
        for name, values in found.items():
            np.testing.assert_allclose(values, once[name], atol=1e-6)


def test_equalisation_and_kept_nodes_of_the_table_are_honoured():
    model = tiny_graph()
    factors = {"relu1": tuple(2.0 ** (index - 4) for index in range(8))}
    equal = equalise(model, factors)
    table = clipped(table_of(equal), 0.5)
    expected = measure_biases(equal, replace(table, keep=("fc1",)), [IMAGES[:32]])
    master = replace(table, weights=table_of(model).weights, equalisation=factors, keep=("fc1",))
    found = measure_biases(model, master, [IMAGES[:32]])
    assert set(found) == {"conv1", "conv2", "fc2"}
    assert found == expected
    run(quantised(model, replace(master, biases=found)), UNSEEN)


def test_only_nodes_that_are_quantised_are_shifted():
    model = tiny_graph()
    table = replace(table_of(model), biases={"conv1": (1.0,) * 8, "fc2": (2.0,) * 5})
    values = {
        tuple(keep): {
            item.name: numpy_helper.to_array(item)
            for item in quantise(model, table, "tensorrt", keep, remainder="fp32").graph.initializer
        }
        for keep in ([], ["conv1"])
    }
    master = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    np.testing.assert_array_equal(values[()]["conv1.bias"], master["conv1.bias"] + 1)
    np.testing.assert_array_equal(values[("conv1",)]["conv1.bias"], master["conv1.bias"])
    for found in values.values():
        np.testing.assert_array_equal(found["fc2.bias"], master["fc2.bias"] + 2)
        np.testing.assert_array_equal(found["conv2.bias"], master["conv2.bias"])


def test_no_shift_and_shifts_of_zero_give_the_graph_itself():
    model = tiny_graph()
    before = model.SerializeToString()
    assert shift_biases(model, {}) is model
    assert shift_biases(model, {"conv1": (0.0,) * 8}) is model
    assert shift_biases(model, {"conv1": (1.0,) * 8}, keep=["conv1"]) is model
    assert shift_biases(model, {"conv1": (1.0,) * 8}) is not model
    assert model.SerializeToString() == before


SHIFT = (1.0, -2.0, 4.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (make("Gemm", ["input", "w"], ["logits"], "n", transB=1), {}),
        (make("Gemm", ["input", "w", ""], ["logits"], "n", transB=1, beta=7.0), {}),
        (make("Gemm", ["input", "w", "b"], ["logits"], "n", transB=1, alpha=2.0), {"b": np.ones(5)}),
        (make("Gemm", ["input", "w", "b"], ["logits"], "n", transB=1, beta=0.25), {"b": np.ones((1, 5))}),
        (make("Gemm", ["input", "w", "b"], ["logits"], "n", transB=1, beta=-4.0), {"b": np.ones(1)}),
        (make("Gemm", ["input", "w", "b"], ["logits"], "n", transB=1, beta=0.0), {"b": np.ones(5)}),
        (make("Gemm", ["input", "w", "b"], ["logits"], "n", transB=1), {"b": np.arange(8.0)[:, None]}),
    ],
)
def test_a_gemm_s_output_is_shifted_whatever_its_bias_and_beta(node, constants):
    constants = {name: values.astype(np.float32) for name, values in constants.items()}
    weight = np.random.default_rng(0).integers(-8, 8, (5, 6)).astype(np.float32)
    model = graph_of([node], {"w": weight, **constants}, shape=[8, 6], output=[8, 5])
    shifted = shift_biases(model, {"n": SHIFT})
    onnx.checker.check_model(shifted, full_check=True)
    feed = np.random.default_rng(1).integers(-8, 8, (8, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(shifted, feed)[0], run(model, feed)[0] + np.array(SHIFT, np.float32))


@pytest.mark.parametrize("bias", [[], [""], ["b"]])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_convolution_without_a_bias_gets_one(op, bias):
    weight = np.random.default_rng(0).integers(-4, 4, (4, 2, 1, 1)).astype(np.float32)
    channels = 4  # 2 a group for ConvTranspose
    nodes = [make(op, ["input", "w", *bias], ["logits"], group=2)]
    constants = {"w": weight, **({"b": np.ones(channels, np.float32)} if bias == ["b"] else {})}
    model = graph_of(nodes, constants, shape=[1, 4, 3, 3], output=[1, channels, 3, 3])
    name = label(model.graph.node[0])
    shift = np.array(SHIFT[:channels], np.float32)
    feed = np.random.default_rng(1).integers(-8, 8, (1, 4, 3, 3)).astype(np.float32)
    shifted = shift_biases(model, {name: SHIFT[:channels]})
    onnx.checker.check_model(shifted, full_check=True)
    np.testing.assert_array_equal(run(shifted, feed)[0], run(model, feed)[0] + shift[:, None, None])


def test_a_shared_bias_stays_as_it_is_for_the_other_node():
    nodes = [
        make("Conv", ["input", "w", "b"], ["c1"], "conv1"),
        make("Conv", ["c1", "w", "b"], ["logits"], "conv2"),
    ]
    constants = {"w": np.eye(3, dtype=np.float32)[:, :, None, None], "b": np.ones(3, np.float32)}
    model = graph_of(nodes, constants, output=("batch", 3, 16, 16))
    feed = np.zeros((1, 3, 16, 16), np.float32)
    for name, expected in (("conv1", [2, 3]), ("conv2", [1, 3])):
        shifted = shift_biases(model, {name: (1.0,) * 3})
        assert [float(item.mean()) for item in run(shifted, feed, "c1", "logits")] == expected


def test_nodes_without_a_constant_bias_are_neither_measured_nor_shifted():
    rng = np.random.default_rng(0)
    nodes = [
        make("MatMul", ["input", "w1"], ["m"], "product"),
        make("Gemm", ["m", "w2", "input"], ["logits"], "fc"),
    ]
    constants = {"w1": rng.normal(0, 1, (6, 6)).astype(np.float32), "w2": rng.normal(0, 1, (6, 6)).astype(np.float32)}
    model = graph_of(nodes, constants, shape=["batch", 6], output=["batch", 6])
    table = given_table(model, input=(2.0, -2.0, 2.0), m=(4.0, -4.0, 4.0))
    assert measure_biases(model, table, [rng.normal(0, 1, (8, 6)).astype(np.float32)]) == {}
    for name in ("product", "fc"):
        with pytest.raises(TableError, match=f"'{name}'"):
            shift_biases(model, {name: (1.0,) * 6})


def test_what_doesn_t_fit_is_refused():
    model = tiny_graph()
    with pytest.raises(TableError, match="'conv9'"):
        shift_biases(model, {"conv9": (1.0,)})
    with pytest.raises(TableError, match="8 channels, and the table corrects 2"):
        shift_biases(model, {"conv1": (1.0, 2.0)})
    table = table_of(model)
    with pytest.raises(DataError, match="no images"):
        measure_biases(model, table, [])
    with pytest.raises(InputError, match="input"):
        measure_biases(model, table, [IMAGES[:2, :2]])
    with pytest.raises(TableError, match="weights"):
        measure_biases(tiny_graph(seed=1), table, [IMAGES[:2]])


@pytest.mark.parametrize("opset", [17, 20])
def test_older_opsets_are_measured_alike(opset):
    model = tiny_graph(opset=opset)
    found = measure_biases(model, clipped(table_of(model), 0.5), [IMAGES[:16]])
    newest = tiny_graph(opset=20)
    expected = measure_biases(newest, clipped(table_of(newest), 0.5), [IMAGES[:16]])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_weights_given_by_constant_nodes_are_measured_alike():
    model = tiny_graph()
    nodes = [make("Constant", [], [item.name], value=item) for item in model.graph.initializer]
    inner = helper.make_graph([*nodes, *model.graph.node], "g", model.graph.input, model.graph.output)
    constant = helper.make_model(inner, opset_imports=model.opset_import, ir_version=10)
    assert constant.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    table = clipped(table_of(model), 0.5)
    given = replace(table, weights=table_of(constant).weights)
    found, expected = (measure_biases(*item, [IMAGES[:16]]) for item in ((constant, given), (model, table)))
    assert found == expected
    corrected = quantised(constant, replace(given, biases=found))
    np.testing.assert_array_equal(
        run(corrected, UNSEEN)[0], run(quantised(model, replace(table, biases=found)), UNSEEN)[0]
    )
