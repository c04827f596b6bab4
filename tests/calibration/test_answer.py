"""What a quantised graph of any network is judged on: scores, or every float output, each by its own scale."""

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from calibration.answer import Answer
from calibration.collect import TappedGraph, collect
from calibration.feeds import TensorBatch, feeds_of
from calibration.figures import output_figures
from calibration.provenance import fingerprint
from calibration.sensitivity import sensitivity
from calibration.simulation import Simulation
from calibration.trials import Bench, is_good
from engines.errors import GraphError, InputError
from engines.metadata import ModelMetadata
from engines.tensors import TensorSpec
from export.graph import check_graph, write_metadata
from export.onnxlib import onnx

RNG = np.random.default_rng(0)
INPUTS = (TensorSpec("ids", "int64", ("batch", 2)), TensorSpec("x", "float32", ("batch", 4)))
OUTPUTS = (
    TensorSpec("small", "float32", ("batch", 3)),
    TensorSpec("large", "float32", ("batch", 2, 2)),
    TensorSpec("which", "int64", ("batch", 1)),
)


def graph(scores: str = "none") -> onnx.ModelProto:
    """``x`` plus looked-up rows, times two matrices: one output is a thousand times the other."""
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "ids"], ["rows"], "rows"),
        make("ReduceMean", ["rows", "axes"], ["mean"], "mean", keepdims=0),
        make("Add", ["mean", "x"], ["sum"], "sum"),
        make("MatMul", ["sum", "w1"], ["small"], "first"),
        make("MatMul", ["sum", "w2"], ["flat"], "second"),
        make("Reshape", ["flat", "shape"], ["large"], "reshape"),
        make("ArgMax", ["small"], ["which"], "argmax", axis=1),
    ]
    values = {
        "table": RNG.standard_normal((7, 4)).astype(np.float32),
        "axes": np.array([1]),
        "w1": RNG.standard_normal((4, 3)).astype(np.float32),
        "w2": 1000 * RNG.standard_normal((4, 4)).astype(np.float32),
        "shape": np.array([-1, 2, 2]),
    }
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    ends = [
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], spec.shape) for spec in specs]
        for specs in (INPUTS, OUTPUTS)
    ]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    labels = () if scores == "none" else ("a", "b", "c")
    write_metadata(model, ModelMetadata("g", labels, None, scores=scores, inputs=INPUTS, outputs=OUTPUTS))
    check_graph(model)
    return model


def batch(count: int, seed: int = 0) -> TensorBatch:
    rng = np.random.default_rng(seed)
    return TensorBatch(
        {"ids": rng.integers(0, 7, (count, 2)), "x": rng.standard_normal((count, 4)).astype(np.float32)}
    )


def test_the_rows_are_the_float_outputs_or_the_scores():
    tapped = TappedGraph(graph())
    assert tapped.answer == Answer(("small", "large"), (3, 4))
    assert tapped.answers(batch(5)).shape == (5, 7)
    assert set(tapped.groups) == {"mean", "x", "sum"}  # integers are fed, and not measured
    scores = TappedGraph(graph("logits"))
    assert scores.answer == Answer(("small",))
    assert scores.answers(batch(5)).shape == (5, 3)


def test_a_graph_without_floats_cannot_be_judged():
    model = graph()
    del model.graph.output[:2]
    with pytest.raises(GraphError, match="gives no floats"):
        Answer.of(model)


def test_every_output_counts_the_same_whatever_its_scale():
    reference = np.concatenate([RNG.standard_normal((6, 3)), 1000 * RNG.standard_normal((6, 4))], 1)
    found = reference.copy()
    found[:, :3] *= 1.1
    noise = 0.01 / (1 + 0.01)  # of each sample's first output; the second has none
    share = noise / 2
    assert output_figures(reference, found, (3, 4)).sqnr_db == pytest.approx(10 * math.log10((1 - share) / share))
    assert output_figures(reference, found, (7,)).sqnr_db > 50
    assert output_figures(reference, reference, (3, 4)).sqnr_db == math.inf
    assert output_figures(reference, np.full_like(found, np.nan), (3, 4)).sqnr_db == -math.inf
    with pytest.raises(InputError):
        output_figures(reference, found, (3, 3))


def test_a_range_is_the_largest_value_of_what_the_product_reads():
    model, one = graph(), batch(40)
    table = collect(model, [one, batch(8, seed=1)]).table("minmax")
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    values = np.concatenate(
        [constants["table"][b.arrays["ids"]].mean(1) + b.arrays["x"] for b in (one, batch(8, seed=1))]
    )
    assert table.ranges["sum"].amax == pytest.approx(np.abs(values).max(), rel=1e-6)
    assert table.images == 48


def test_layers_of_a_network_without_labels_are_measured_and_no_label_flips():
    model = graph()
    table = collect(model, [batch(40)]).table("minmax")
    with Simulation(model, table) as simulation:
        found = sensitivity(simulation, None, [batch(16, seed=2)])
        trial = Bench(simulation, [batch(16, seed=2)]).measure("minmax")
    assert {layer.node for layer in found.layers} == {"first", "second"}
    assert 20 < found.all_quantised.sqnr_db < 60
    assert all(math.isnan(layer.kl) and layer.flips == 0 for layer in found.layers)
    assert (trial.agreement, trial.kl) == (None, None)
    assert trial.to_json()["agreement"] is None
    assert is_good(replace(trial, sqnr_db=26.0))
    assert not is_good(replace(trial, sqnr_db=25.9))  # no labels that agree make up for it


def test_a_batch_has_the_graphs_inputs():
    one = batch(3)
    assert len(one) == 3
    assert feeds_of(INPUTS, one) == dict(one.arrays)
    with pytest.raises(InputError, match="has 2 inputs"):
        feeds_of(INPUTS, one.arrays["x"])
    with pytest.raises(InputError, match="no value for input x"):
        feeds_of(INPUTS, TensorBatch({"ids": one.arrays["ids"]}))


def test_a_samples_fingerprint_is_of_all_its_arrays():
    first, second = np.arange(4), np.ones(3, np.float32)
    assert fingerprint(first, second) != fingerprint(first, second + 1)
    assert fingerprint(first, second) != fingerprint(first)
    assert fingerprint(np.arange(8).reshape(2, 4)[:, ::2]) == fingerprint(np.array([0, 2, 4, 6]))
