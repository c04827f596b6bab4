"""Where two graphs part: the layer that is wrong is named, and an honest typed graph has none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.bias import measure_biases
from calibration.bisection.bisect import bisect
from calibration.bisection.record import Bisection
from calibration.collect import collect
from calibration.equalise import equalise, find_factors
from calibration.qdq import quantise
from calibration.table import CalibrationTable
from calibration.taps import TappedGraph, channel_maxima
from engines.errors import DataError, GraphError, InputError, UnsupportedError
from export.graph import weights_digest
from export.passes.uint8_input import take_uint8_input
from export.precision import to_half
from tests.calibration.foreign_graphs import placed, stock
from tests.calibration.graphs import IMAGES, UNSEEN, graph_of, residual_graph, run
from tests.calibration.renaming import copy_of, give, node_of, otherwise_exported, renamed, values_of
from tests.tiny import PREPROCESS, tiny_graph, tiny_images
from tests.toolkit.hard import hard_graph

SEEN = IMAGES[:96]
BATCHES = [UNSEEN[:20], UNSEEN[20:]]
GRAPHS = {"tiny": tiny_graph(), "lrn": tiny_graph(lrn=True), "residual": residual_graph(), "hard": hard_graph()}


def table_of(model: onnx.ModelProto, method: str = "minmax", precision: str = "int8") -> CalibrationTable:
    return collect(model, [SEEN]).table(method, precision=precision)


Typing = Callable[[onnx.ModelProto], onnx.ModelProto]
TYPINGS: dict[str, Typing] = {
    "fp32": copy_of,
    "fp16": lambda model: to_half(model, "fp16"),
    "int8 for TensorRT": lambda model: quantise(model, table_of(model), "tensorrt"),
    "int8 for ONNX Runtime": lambda model: quantise(model, table_of(model), "onnxruntime"),
    "fp8": lambda model: quantise(model, table_of(model, precision="fp8")),
}


def weights_of(model: onnx.ModelProto) -> dict[str, str]:
    """The name of every layer's weight."""
    return {node.name: node.input[1] for node in model.graph.node if node.op_type in {"Conv", "Gemm"}}


def scaled(model: onnx.ModelProto, layer: str, factor: float = 1.05) -> onnx.ModelProto:
    result = copy_of(model)
    name = weights_of(model)[layer]
    give(result, **{name: values_of(result, name) * np.float32(factor)})
    return result


def over(found: Bisection) -> list[str]:
    return [layer.node for layer in found.layers if layer.over]


@pytest.mark.parametrize("typing", TYPINGS)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_layer_scaled_by_five_percent_is_named_whichever_it_is_and_an_honest_graph_has_none(
    name: str, typing: str
) -> None:
    master, typed = GRAPHS[name], TYPINGS[typing]
    honest = bisect(master, typed(master), BATCHES, mend=False)
    assert honest.first is None, honest.verdict()
    assert "don't part" in honest.verdict()
    for layer in weights_of(master):
        found = bisect(master, typed(scaled(master, layer)), BATCHES, mend=False)
        assert over(found) == [layer]
        assert found.first is not None
        assert found.first.gain == pytest.approx(1.05, abs=0.03)
        assert "multiplied by 1.0" in found.first.reason


@pytest.mark.parametrize("typing", ["fp32", "fp16", "int8 for TensorRT", "int8 for ONNX Runtime"])
def test_the_layer_is_told_by_its_module_and_keeping_it_brings_the_logits_back(typing: str) -> None:
    master = tiny_graph()
    node_of(master, "conv2").metadata_props.add(key="toolkit.module", value="features.3")
    found = bisect(master, TYPINGS[typing](scaled(master, "conv2")), BATCHES)
    assert found.verdict().startswith("they part at features.3 (conv2): its weights are multiplied by 1.0")
    assert found.mending is not None
    assert found.mending.keep == ("conv2",)
    assert found.mending.reached.sqnr_db > max(found.reach_db, found.logits.sqnr_db + 3)
    assert found.mending.reached.sqnr_db >= found.types.sqnr_db - 3
    cumulative = {layer.node: layer.cumulative_db for layer in found.layers}
    own = {layer.node: layer.own_db for layer in found.layers}
    assert cumulative["conv1"] == pytest.approx(own["conv1"], abs=0.1)
    assert own["conv2"] < 27
    assert cumulative["fc1"] < 27 < own["fc1"]


def test_cumulative_error_and_logits_are_those_of_the_graphs_themselves() -> None:
    master = tiny_graph()
    typed = quantise(master, table_of(master), "tensorrt", remainder="fp32")
    found = bisect(master, typed, BATCHES)
    taps = [copy_of(model) for model in (master, typed)]
    for model in taps:
        del model.graph.output[:]
        model.graph.output.add(name="relu2")
    first, second = (run(model, UNSEEN, optimised=False).astype(np.float64) for model in taps)
    expected = 10 * np.log10((first**2).sum() / ((first - second) ** 2).sum())
    layer = next(layer for layer in found.layers if layer.tensor == "relu2")
    assert layer.cumulative_db == pytest.approx(expected, abs=0.3)  # other kernels, so some values round otherwise
    assert found.images == len(UNSEEN)


def equalised_table(master: onnx.ModelProto) -> CalibrationTable:
    tapped = TappedGraph(master)
    factors = find_factors(master, channel_maxima(tapped, SEEN, tapped.groups))
    assert factors
    table = table_of(equalise(master, factors))
    return replace(table, weights=weights_digest(master), equalisation=factors)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_equalised_channels_and_corrected_biases_are_no_alarm_and_hide_none(target: str) -> None:
    master = hard_graph()
    table = equalised_table(master)
    table = replace(table, biases=measure_biases(master, table, [SEEN]))
    honest = bisect(master, quantise(master, table, target), BATCHES)
    assert (honest.first, honest.equalised, honest.mending) == (None, True, None)
    for layer in weights_of(master):
        wrong = scaled(master, layer)
        table = replace(equalised_table(master), weights=weights_digest(wrong))
        assert over(bisect(master, quantise(wrong, table, target), BATCHES, mend=False)) == [layer]


@pytest.mark.parametrize("method", ["entropy", "percentile", "mse"])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_ranges_that_clip_a_little_are_no_alarm(method: str, target: str) -> None:
    master = residual_graph()
    assert bisect(master, quantise(master, table_of(master, method), target), BATCHES).first is None


@pytest.mark.parametrize("factor", [0.1, 64.0])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_range_that_really_hurts_is_named_where_it_is_read(target: str, factor: float) -> None:
    master = tiny_graph()
    table = table_of(master)
    bad = table.ranges["relu3"]
    bad = replace(bad, amax=bad.amax * factor, minimum=bad.minimum * factor, maximum=bad.maximum * factor)
    table = replace(table, ranges={**table.ranges, "relu3": bad})
    found = bisect(master, quantise(master, table, target), BATCHES)
    assert over(found) == ["fc2"]
    assert found.first is not None
    assert "range" in found.first.reason
    assert found.first.floor_db > found.first.own_db + 6
    assert found.mending is not None
    assert found.mending.keep == ("fc2",)


def test_a_range_on_what_only_moves_values_is_named_where_nothing_behind_it_is() -> None:
    found = bisect(tiny_graph(opset=21), placed({"input": np.int8(0), "relu1": np.int8(0)}), BATCHES)
    assert over(found) == ["pool"]


def test_types_that_ruin_a_layer_are_no_mistake_but_the_layer_to_keep_is_found() -> None:
    master = hard_graph()
    found = bisect(master, quantise(master, table_of(master)), BATCHES)
    assert found.first is None
    assert not found.within_reach
    assert found.types.sqnr_db < 5
    assert found.mending is not None
    assert found.mending.keep == ("fc2",)
    kept = quantise(master, table_of(master), keep=["fc2"])
    assert bisect(master, kept, BATCHES).within_reach


@pytest.mark.parametrize("typing", ["fp32", "fp16", "int8 for TensorRT"])
@pytest.mark.parametrize("fault", ["attribute", "bias", "channel", "order"])
def test_other_faults_are_named_too(typing: str, fault: str) -> None:
    master = tiny_graph(lrn=True)
    wrong = copy_of(master)
    weight = values_of(master, "conv2.weight").copy()
    if fault == "attribute":
        next(item for item in node_of(wrong, "lrn").attribute if item.name == "alpha").f = 1e-2
    elif fault == "bias":
        give(wrong, **{"conv2.bias": np.zeros(16, np.float32)})
    elif fault == "channel":
        weight[3] *= 1.2
        give(wrong, **{"conv2.weight": weight})
    else:
        give(wrong, **{"conv2.weight": weight[::-1].copy()})
    found = bisect(master, TYPINGS[typing](wrong), BATCHES)
    named = {"attribute": "lrn"}.get(fault, "conv2")
    assert over(found) == [named]
    if fault == "channel":
        assert found.first is not None
        assert "1 of its channels" in found.first.reason


@pytest.mark.parametrize("export", [renamed, otherwise_exported])
def test_another_export_is_matched_by_its_structure(export: Typing) -> None:
    master = tiny_graph()
    assert bisect(master, export(master), BATCHES).first is None
    found = bisect(master, export(scaled(master, "fc1")), BATCHES)
    assert over(found) == ["fc1"]
    assert found.unmatched == ()
    assert over(
        bisect(master, quantise(export(scaled(master, "conv1")), table_of(export(scaled(master, "conv1")))), BATCHES)
    ) == ["conv1"]


def with_batch_norm() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(0, 0.3, (6, 3, 3, 3)), "wf": rng.normal(0, 0.3, (5, 6)), "bf": np.zeros(5)}
    constants |= {"gamma": rng.uniform(0.5, 2, 6), "beta": rng.normal(0, 1, 6), "mean": rng.normal(0, 1, 6)}
    constants |= {"variance": rng.uniform(0.5, 2, 6)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["logits"], "fc", transB=1),
    ]
    return graph_of(nodes, {name: values.astype(np.float32) for name, values in constants.items()})


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    result = copy_of(model)
    get = {name: values_of(model, name) for name in ("w", "gamma", "beta", "mean", "variance")}
    factor = get["gamma"] / np.sqrt(get["variance"] + np.float32(1e-5))
    give(result, w=get["w"] * factor[:, None, None, None], b=get["beta"] - get["mean"] * factor)
    result.graph.node.remove(node_of(result, "norm"))
    node_of(result, "conv").input.append("b")
    node_of(result, "relu").input[0] = "c"
    return result


@pytest.mark.parametrize("typing", ["fp32", "fp16", "int8 for TensorRT", "int8 for ONNX Runtime"])
def test_a_batch_normalisation_folded_into_a_convolution_is_no_alarm(typing: str) -> None:
    master, typed = with_batch_norm(), TYPINGS[typing]
    assert bisect(master, typed(folded(master)), BATCHES).first is None
    found = bisect(master, typed(folded(scaled(master, "conv"))), BATCHES)
    assert len(over(found)) == 1
    assert found.layers[0].over


def many_operators() -> onnx.ModelProto:
    """A depthwise and a transposed convolution, attention, sums and means."""
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv", pads=[1, 1, 1, 1]),
        make("HardSwish", ["c1"], ["h1"], "swish"),
        make("Conv", ["h1", "wd"], ["d"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        make("Clip", ["d", "low", "high"], ["d6"], "clip"),
        make("ConvTranspose", ["d6", "wt", "bt"], ["t"], "transposed", strides=[2, 2]),
        make("AveragePool", ["t"], ["a"], "average", kernel_shape=[4, 4], strides=[4, 4]),
        make("Reshape", ["a", "shape"], ["rows"], "reshape"),
        make("Transpose", ["rows"], ["tokens"], "transpose", perm=[0, 2, 1]),
        make("MatMul", ["tokens", "wq"], ["q0"], "query"),
        make("Add", ["q0", "bq"], ["q"], "query.bias"),
        make("MatMul", ["tokens", "wk"], ["k0"], "key"),
        make("Transpose", ["k0"], ["k"], "key.transposed", perm=[0, 2, 1]),
        make("MatMul", ["q", "k"], ["scores"], "scores"),
        make("Softmax", ["scores"], ["shares"], "softmax", axis=-1),
        make("MatMul", ["shares", "tokens"], ["mixed"], "mix"),
        make("ReduceMean", ["mixed", "axes"], ["m"], "mean", keepdims=0),
        make("MatMul", ["m", "wf"], ["f0"], "fc"),
        make("Add", ["f0", "bf"], ["logits"], "fc.bias"),
    ]
    constants = {
        "w1": weight(8, 3, 3, 3), "b1": weight(8) * 0.1, "wd": weight(8, 1, 3, 3), "wt": weight(8, 6, 2, 2),
        "bt": weight(6) * 0.1, "wq": weight(6, 6), "bq": weight(6), "wk": weight(6, 6), "wf": weight(6, 5),
        "bf": weight(5), "low": np.float32(0), "high": np.float32(6), "shape": np.array([0, 6, 64]),
        "axes": np.array([1]),
    }  # fmt: skip
    return graph_of(nodes, constants)


@pytest.mark.parametrize("typing", TYPINGS)
def test_it_is_so_for_other_operators_too(typing: str) -> None:
    master, typed = many_operators(), TYPINGS[typing]
    assert bisect(master, typed(master), BATCHES, mend=False).first is None
    for layer in ("depthwise", "transposed", "query", "fc"):
        wrong = copy_of(master)
        name = node_of(master, layer).input[1]
        give(wrong, **{name: values_of(master, name) * np.float32(1.05)})
        assert over(bisect(master, typed(wrong), BATCHES, mend=False)) == [layer]


def test_graphs_that_take_pixels_are_judged() -> None:
    master, wrong = tiny_graph(), scaled(tiny_graph(), "conv1")
    for model in (master, wrong):
        take_uint8_input(model.graph, PREPROCESS)
    pixels = [tiny_images(16, seed=3)]
    assert bisect(master, to_half(master, "fp16"), pixels).first is None
    table = collect(wrong, [tiny_images(64)]).table("minmax")
    assert over(bisect(master, quantise(wrong, table), pixels)) == ["conv1"]
    with pytest.raises(GraphError, match="different inputs"):
        bisect(tiny_graph(), master, pixels)


def test_a_graph_that_another_tool_quantised_is_judged(tmp_path: Path) -> None:
    master = tiny_graph()
    assert bisect(master, stock(master, tmp_path), BATCHES).first is None
    assert over(bisect(master, stock(scaled(master, "conv2"), tmp_path), BATCHES)) == ["conv2"]


def test_identical_graphs_differ_in_nothing(tmp_path: Path) -> None:
    onnx.save(tiny_graph(), tmp_path / "a.onnx")
    found = bisect(tmp_path / "a.onnx", tmp_path / "a.onnx", BATCHES)
    assert found.logits.sqnr_db == float("inf")
    assert all(layer.own_db == float("inf") for layer in found.layers)
    assert found.to_json()["first"] is None
    assert found.to_json()["layers"][0]["own_db"] == "inf"


def test_what_cannot_be_compared_is_refused() -> None:
    master = tiny_graph()
    with pytest.raises(DataError, match="no images"):
        bisect(master, master, [])
    with pytest.raises(InputError, match="only once"):
        bisect(master, master, iter(BATCHES))
    with pytest.raises(UnsupportedError, match="BF16"):
        bisect(master, to_half(master, "bf16"), BATCHES)
    with pytest.raises(InputError):
        bisect(master, master, [UNSEEN[:, :2]])
    other = graph_of(
        [helper.make_node("GlobalMaxPool", ["input"], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])],
        {},
        output=("batch", 3),
    )
    with pytest.raises(GraphError, match="no convolution"):
        bisect(master, other, BATCHES)
    small = graph_of(
        [helper.make_node("Flatten", ["input"], ["logits"])], {}, shape=("batch", 3, 8, 8), output=("batch", 192)
    )
    with pytest.raises(GraphError, match="different inputs"):
        bisect(master, small, BATCHES)


def test_the_graphs_that_are_given_are_not_changed() -> None:
    master, typed = tiny_graph(), to_half(tiny_graph(), "fp16")
    before = master.SerializeToString(), typed.SerializeToString()
    bisect(master, typed, BATCHES)
    assert (master.SerializeToString(), typed.SerializeToString()) == before
    assert numpy_helper.to_array(master.graph.initializer[0]).dtype == np.float32
