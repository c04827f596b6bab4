"""A simulation gives the answers of the graph that ships, whatever is asked of it."""

import gc
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.equalise import equalise
from calibration.qdq import quantise
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from engines.errors import GraphError, InputError, TableError
from engines.sessions.onnxruntime import OnnxRuntimeSession
from tests.calibration.graphs import UNSEEN, given_table, graph_of, residual_graph, run, table_of
from tests.tiny import tiny_graph


def real(model: onnx.ModelProto, table: CalibrationTable, keep: tuple[str, ...] = ()) -> np.ndarray:
    """What ONNX Runtime makes of the graph that ships."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(quantise(model, table, "tensorrt", keep, remainder="fp32"), path)
        with OnnxRuntimeSession(path, device="cpu") as session:
            return session.run({"input": UNSEEN})["logits"]


def attention_graph() -> onnx.ModelProto:
    """MatMul with weights, MatMul of two activations, a Gemm with alpha, beta and a weight that isn't transposed."""
    rng = np.random.default_rng(5)
    make = helper.make_node
    nodes = [
        make("Reshape", ["input", "tokens"], ["x"], "tokens"),
        make("MatMul", ["x", "wq"], ["q"], "query"),
        make("MatMul", ["x", "wk"], ["k"], "key"),
        make("Transpose", ["k"], ["kt"], "transpose", perm=[0, 2, 1]),
        make("MatMul", ["q", "kt"], ["scores"], "scores"),
        make("Softmax", ["scores"], ["weights"], "softmax"),
        make("MatMul", ["weights", "x"], ["mixed"], "mix"),
        make("ReduceMean", ["mixed", "axes"], ["mean"], "mean", keepdims=0),
        make("Gemm", ["mean", "wf", "bf"], ["logits"], "fc", alpha=0.5, beta=2.0),
    ]
    constants = {
        "tokens": np.array([0, 48, 16]), "axes": np.array([1]),
        "wq": rng.normal(0, 0.1, (16, 40)).astype(np.float32), "wk": rng.normal(0, 0.1, (16, 40)).astype(np.float32),
        "wf": rng.normal(0, 1, (16, 5)).astype(np.float32), "bf": rng.normal(0, 1, 5).astype(np.float32),
    }  # fmt: skip
    return graph_of(nodes, constants)


def two_branches() -> onnx.ModelProto:
    """An Add of two convolutions: which of its inputs is quantised depends on which convolution is."""
    rng = np.random.default_rng(6)
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w1"], ["c1"], "left", pads=[1, 1, 1, 1]),
        make("Conv", ["input", "w2"], ["c2"], "right"),
        make("Add", ["c1", "c2"], ["sum"], "add"),
        make("Relu", ["sum"], ["r"], "relu"),
        make("GlobalAveragePool", ["r"], ["mean"], "mean"),
        make("Flatten", ["mean"], ["flat"], "flatten"),
        make("Gemm", ["flat", "wf"], ["logits"], "fc", transB=1),
    ]
    constants = {
        "w1": rng.normal(0, 0.3, (64, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.9, (64, 3, 1, 1)).astype(np.float32),
        "wf": rng.normal(0, 0.3, (5, 64)).astype(np.float32),
    }
    return graph_of(nodes, constants)


GRAPHS = {
    "plain": tiny_graph,
    "LRN": lambda: tiny_graph(lrn=True),
    "residual and Concat": residual_graph,
    "products": attention_graph,
    "two branches": two_branches,
}


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the order of sums, which can move a value across the border between two of its 8-bit steps."""
    assert (found.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


@pytest.fixture(params=GRAPHS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, CalibrationTable]:
    model = GRAPHS[request.param]()
    return model, table_of(model, "entropy")


def test_it_answers_like_the_graph_that_ships(case: tuple[onnx.ModelProto, CalibrationTable]) -> None:
    model, table = case
    with Simulation(model, table) as simulation:
        found = simulation.run(UNSEEN)
    close(found, real(model, table))
    assert np.abs(found - run(model, UNSEEN)).max() > 1e-3, "nothing was quantised"


def test_any_layer_kept_back_is_as_in_the_graph_that_keeps_it(
    case: tuple[onnx.ModelProto, CalibrationTable],
) -> None:
    model, table = case
    with Simulation(model, table) as simulation:
        for layer in simulation.layers:
            close(simulation.run(UNSEEN, keep=[layer]), real(model, table, (layer,)))


def test_one_layer_alone_is_as_in_the_graph_that_keeps_the_others() -> None:
    for model in (residual_graph(), two_branches()):
        table = table_of(model)
        with Simulation(model, table) as simulation:
            for layer in simulation.layers:
                others = tuple(name for name in simulation.layers if name != layer)
                close(simulation.run(UNSEEN, only=[layer]), real(model, table, others))


def test_with_every_layer_kept_it_is_the_master_bit_for_bit(
    case: tuple[onnx.ModelProto, CalibrationTable],
) -> None:
    model, table = case
    with Simulation(model, table) as simulation:
        np.testing.assert_array_equal(simulation.reference(UNSEEN), run(model, UNSEEN))
        np.testing.assert_array_equal(simulation.run(UNSEEN, only=[]), run(model, UNSEEN))


def test_other_ranges_are_as_in_a_table_with_them(case: tuple[onnx.ModelProto, CalibrationTable]) -> None:
    model, table = case
    with Simulation(model, table) as simulation:
        before = simulation.run(UNSEEN)
        amax = {name: table.ranges[name].amax * (0.4 + 0.2 * index) for index, name in enumerate(simulation.groups)}
        changed = {name: replace(table.ranges[name], amax=value) for name, value in amax.items()}
        found = simulation.run(UNSEEN, amax=amax)
        close(found, real(model, replace(table, ranges={**table.ranges, **changed})))
        assert np.abs(found - before).max() > 1e-3, "the ranges didn't matter"
        np.testing.assert_array_equal(simulation.run(UNSEEN), before)


@pytest.mark.parametrize("name", ["plain", "residual and Concat", "products"])
def test_fp8_is_simulated_from_its_own_table(name: str) -> None:
    model = GRAPHS[name]()
    table = replace(table_of(model), precision="fp8")
    with Simulation(model, table) as simulation:
        found = simulation.run(UNSEEN)
        close(found, real(model, table))
        assert np.abs(found - simulation.reference(UNSEEN)).max() > 1e-3
        doubled = {tensor: 2 * table.ranges[tensor].amax for tensor in simulation.groups}
        changed = {tensor: replace(table.ranges[tensor], amax=value) for tensor, value in doubled.items()}
        close(simulation.run(UNSEEN, amax=doubled), real(model, replace(table, ranges={**table.ranges, **changed})))


def test_8_bit_values_are_exact() -> None:
    """With scales that are powers of two and whole weights float32 sums are exact, and so is the simulation."""
    rng = np.random.default_rng(2)
    weight = rng.integers(-100, 101, (6, 3, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 127
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w"], ["c"], "conv"),
        make("GlobalMaxPool", ["c"], ["m"], "max"),
        make("Flatten", ["m"], ["logits"], "flatten"),
    ]
    model = graph_of(nodes, {"w": weight}, output=("batch", 6))
    step = 2.0**-4
    table = given_table(model, input=(127 * step, -3.0, 3.0))
    with Simulation(model, table) as simulation:
        found = simulation.run(UNSEEN)
    rounded = np.clip(np.rint(UNSEEN / step), -128, 127).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(rounded, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.int64)).max((2, 3)) * step
    np.testing.assert_array_equal(found, expected)


def test_equalised_channels_and_shifted_biases_are_in_the_quantised_graph_alone() -> None:
    model = tiny_graph()
    plain = table_of(model)
    factors = tuple(2.0 ** (index % 4 - 1) for index in range(8))
    equalised = table_of(equalise(model, {"relu1": factors}))
    table = replace(
        plain,
        ranges=equalised.ranges,
        equalisation={"relu1": factors},
        biases={"conv2": tuple(0.01 * index for index in range(16)), "fc2": (0.5, 0, 0, -0.5, 0)},
    )
    with Simulation(model, table) as simulation:
        found = simulation.run(UNSEEN)
        close(found, real(model, table))
        close(simulation.run(UNSEEN, keep=["conv2"]), real(model, table, ("conv2",)))
        np.testing.assert_array_equal(simulation.reference(UNSEEN), run(model, UNSEEN))
    with Simulation(model, plain) as simulation:
        assert np.abs(simulation.run(UNSEEN) - found).max() > 0.1


def test_weights_may_be_clipped() -> None:
    model = tiny_graph()
    model.graph.initializer[2].CopyFrom(_with_outliers(model.graph.initializer[2]))
    table = replace(table_of(model), weight_clip="mse")
    with Simulation(model, table) as simulation:
        found = simulation.run(UNSEEN)
    close(found, real(model, table))
    with Simulation(model, replace(table, weight_clip="max")) as simulation:
        assert np.abs(simulation.run(UNSEEN) - found).max() > 1e-3


def _with_outliers(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:, 0, 0, 0] *= 8
    return onnx.numpy_helper.from_array(values, tensor.name)


def test_layers_and_groups_are_what_can_be_asked_for() -> None:
    model = residual_graph()
    simulation = Simulation(model, table_of(model))
    assert simulation.layers == ("conv1", "conv2", "conv3", "conv4", "fc")
    assert simulation.groups == ("input", "r1", "r2", "mean")
    assert simulation.readers("r2") == ("conv3", "conv4")
    assert simulation.readers("input") == ("conv1",)
    assert simulation.operator("fc") == "Gemm"
    assert simulation.module("fc") is None


def test_what_the_table_keeps_stays_kept() -> None:
    model = tiny_graph()
    table = replace(table_of(model), keep=("conv2",))
    with Simulation(model, table) as simulation:
        assert simulation.layers == ("conv1", "fc1", "fc2")
        close(simulation.run(UNSEEN), real(model, table))
        close(simulation.run(UNSEEN, keep=["fc1"]), real(model, table, ("fc1",)))
        np.testing.assert_array_equal(simulation.reference(UNSEEN), run(model, UNSEEN))


def test_it_reads_a_file_and_takes_batches_of_any_size(tmp_path: Path) -> None:
    model = tiny_graph()
    onnx.save(model, tmp_path / "model.onnx")
    with Simulation(tmp_path / "model.onnx", table_of(model), threads=1) as simulation:
        whole = simulation.run(UNSEEN)
        parts = [simulation.run(UNSEEN[:5]), simulation.run(UNSEEN[5:])]
    close(np.concatenate(parts), whole)


def test_nonsense_is_refused() -> None:
    model = tiny_graph()
    table = table_of(model)
    with Simulation(model, table) as simulation:
        with pytest.raises(InputError, match="no node is called 'conv9'"):
            simulation.run(UNSEEN, keep=["conv9"])
        with pytest.raises(InputError, match="no node is called 'conv9'"):
            simulation.run(UNSEEN, only=["conv9"])
        with pytest.raises(TableError, match="no range for tensor 'nothing'"):
            simulation.run(UNSEEN, amax={"nothing": 1.0})
        with pytest.raises(InputError, match="input"):
            simulation.run(UNSEEN[:, :2])
    with pytest.raises(TableError, match="stale"):
        Simulation(tiny_graph(seed=1), table)
    with pytest.raises(GraphError, match="keep fewer layers"):
        Simulation(model, replace(table, keep=("conv1", "conv2", "fc1", "fc2")))
    with pytest.raises(GraphError, match="int8 already"):
        Simulation(quantise(model, table), table)


def test_a_weight_that_two_layers_share_or_that_a_node_holds_is_quantised_like_any_other() -> None:
    rng = np.random.default_rng(8)
    make = helper.make_node
    held = onnx.numpy_helper.from_array(rng.normal(0, 0.3, (64, 3, 3, 3)).astype(np.float32))
    nodes = [
        make("Constant", [], ["held"], "held", value=held),
        make("Conv", ["input", "held"], ["c1"], "first", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "w"], ["c2"], "second"),
        make("Relu", ["c2"], ["r2"], "relu2"),
        make("Conv", ["r2", "w"], ["c3"], "third"),
        make("GlobalAveragePool", ["c3"], ["mean"], "mean"),
        make("Flatten", ["mean"], ["logits"], "flatten"),
    ]
    weight = rng.normal(0, 0.2, (64, 64, 1, 1)).astype(np.float32)
    weight[:, 5:] *= 0.01
    model = graph_of(nodes, {"w": weight}, output=("batch", 64))
    table = table_of(model)
    with Simulation(model, table) as simulation:
        assert simulation.layers == ("first", "second", "third")
        close(simulation.run(UNSEEN), real(model, table))
        close(simulation.run(UNSEEN, keep=["second"]), real(model, table, ("second",)))
        assert sum(values.nbytes for values in simulation._store.arrays.values()) < 4 * weight.nbytes


def test_few_sessions_stay_loaded_and_every_weight_is_quantised_once() -> None:
    model = tiny_graph()
    simulation = Simulation(model, table_of(model))
    simulation.run(UNSEEN[:1])
    quantised = set(simulation._store.arrays)
    simulation.reference(UNSEEN[:1])
    before = set(simulation._store.arrays)
    assert quantised
    assert quantised < before, "plain weights become arrays only when a graph needs them"
    for layer in simulation.layers:
        simulation.run(UNSEEN[:1], only=[layer])
    assert len(simulation._sessions) == 2
    assert set(simulation._store.arrays) == before, "a weight was quantised twice"
    arrays = [weakref.ref(values) for values in simulation._store.arrays.values()]
    simulation.close()
    gc.collect()
    assert not any(reference() is not None for reference in arrays)
