"""FP8 placement: structure, arithmetic, accuracy in ONNX Runtime, and what TensorRT for RTX makes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.e4m3 import decode, encode
from calibration.lint import lint
from calibration.placement.tensorrt import FP8_KERNEL_SIZE, symmetric
from calibration.qdq import quantise
from calibration.table import CalibrationTable, TensorRange
from calibration.weights import half_up
from engines.errors import GraphError, UnsupportedError
from engines.sessions import open_session
from export.graph import layer_types, load_graph, read_derived, read_metadata, save_graph, weights_digest
from export.structure import producers
from tests.calibration.graphs import UNSEEN, given_table, graph_of, residual_graph, run, sqnr, table_of
from tests.tiny import METADATA, tiny_graph

E4M3 = TensorProto.FLOAT8E4M3FN
GRAPHS = {"plain": tiny_graph, "lrn": lambda: tiny_graph(lrn=True), "residual": residual_graph}


def fp8_table(model: onnx.ModelProto) -> CalibrationTable:
    return replace(table_of(model), precision="fp8")


def run_as_shipped(model: onnx.ModelProto, folder: Path, feed: np.ndarray = UNSEEN) -> np.ndarray:
    """What `predict` and `compare` do with the file."""
    save_graph(model, folder / "m.fp8.onnx")
    with open_session(folder / "m.fp8.onnx", backend="onnxruntime", device="cpu") as session:
        return session.run({"input": feed})["logits"]


def classifier(nodes: list[onnx.NodeProto], channels: int, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """``nodes`` from "input" to "x" [batch, channels, …], then pooling and a Gemm."""
    rng = np.random.default_rng(9)
    tail = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "wf"], ["logits"], "fc", transB=1),
    ]
    return graph_of([*nodes, *tail], {**constants, "wf": rng.normal(0, 1, (5, channels)).astype(np.float32)})


@pytest.mark.parametrize("name", GRAPHS)
def test_fp8_graphs_are_valid_and_say_what_they_are(name: str) -> None:
    master = GRAPHS[name]()
    before = master.SerializeToString()
    table = fp8_table(master)
    model = quantise(master, table)
    onnx.checker.check_model(model, full_check=True)
    assert master.SerializeToString() == before
    assert {layer.type for layer in layer_types(model)} == {"fp8"}
    derived = read_derived(model)
    assert derived is not None
    assert (derived.precision, derived.placement, derived.remainder) == ("fp8", "tensorrt", "fp16")
    assert (derived.weights, derived.table) == (weights_digest(master), table.digest())
    assert read_metadata(model) == read_metadata(master)
    assert lint(model) == []


def test_every_zero_point_and_weight_is_fp8_and_scales_are_amax_over_448() -> None:
    master = tiny_graph()
    table = fp8_table(master)
    model = quantise(master, table)
    stored = {item.name: item for item in model.graph.initializer}
    made_by = producers(model.graph)
    pairs = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert {stored[node.input[2]].data_type for node in pairs} == {E4M3}
    assert not any(numpy_helper.to_array(stored[node.input[2]]).astype(np.float32).any() for node in pairs)
    step = float(numpy_helper.to_array(stored[made_by["pool.quantized"].input[1]]))
    assert step == pytest.approx(table.ranges["relu1"].amax / 448, rel=2**-10)
    assert step * 448 >= table.ranges["relu1"].amax
    weight = made_by[next(node for node in model.graph.node if node.name == "conv2").input[1]]
    assert (stored[weight.input[0]].data_type, len(stored[weight.input[1]].dims)) == (E4M3, 1)


@pytest.mark.parametrize("optimised", [True, False])
def test_a_single_product_computes_what_the_formats_definition_says(tmp_path: Path, optimised: bool) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1, (5, 12)).astype(np.float32), rng.normal(0, 1, 5).astype(np.float32)
    gemm = helper.make_node("Gemm", ["input", "w", "b"], ["logits"], "fc", transB=1)
    master = graph_of([gemm], {"w": weight, "b": bias}, shape=["batch", 12])
    table = replace(given_table(master, input=(2.0, -1.5, 4.0)), precision="fp8")
    model = quantise(master, table, remainder="fp32")
    feed = rng.normal(0, 1.5, (64, 12)).astype(np.float32)  # some beyond 2: they saturate

    step = half_up(np.array([np.float32(2) / np.float32(448)]))[0]
    weight_steps = np.abs(weight).max(axis=1) / np.float32(448)
    inputs, weights = decode(encode(feed / step)), decode(encode(weight / weight_steps[:, None]))
    assert np.abs(inputs).max() == 448
    expected = (inputs.astype(np.float64) @ weights.T) * step * weight_steps + bias
    found = run_as_shipped(model, tmp_path, feed) if optimised else run(model, feed, optimised=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
@pytest.mark.parametrize("name", GRAPHS)
def test_onnx_runtimes_optimisations_leave_the_accuracy_what_it_is(tmp_path: Path, name: str, remainder: str) -> None:
    master = GRAPHS[name]()
    model = quantise(master, fp8_table(master), remainder=remainder)  # type: ignore[arg-type]
    found, plain = run_as_shipped(model, tmp_path), run(model, UNSEEN, optimised=False)
    assert ((found - plain) ** 2).sum() <= 1e-3 * (plain**2).sum()
    assert sqnr(run(master, UNSEEN), found) > 20


def test_fp8_holds_an_outlier_and_the_rest_where_int8_must_choose() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (5, 12)).astype(np.float32)
    gemm = helper.make_node("Gemm", ["input", "w"], ["logits"], "fc", transB=1)
    master = graph_of([gemm], {"w": weight}, shape=["batch", 12])
    table = given_table(master, input=(1000.0, -1000.0, 1000.0))
    feed = rng.normal(0, 1, (64, 12)).astype(np.float32)
    reference = run(master, feed)
    int8, fp8 = (
        sqnr(reference, run(quantise(master, replace(table, precision=it), remainder="fp32"), feed, optimised=False))
        for it in ("int8", "fp8")
    )
    assert int8 < 5
    assert fp8 > 25


def test_a_graph_of_an_old_opset_is_lifted_to_one_that_knows_fp8() -> None:
    master = tiny_graph(opset=13)
    master.ir_version = 8
    model = quantise(master, fp8_table(master), remainder="fp32")
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (19, 9)
    assert (master.opset_import[0].version, master.ir_version) == (13, 8)
    assert {layer.type for layer in layer_types(model)} == {"fp8"}
    assert read_metadata(model) == METADATA


def test_layers_without_an_fp8_kernel_get_no_qdq_and_stay_fp16() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], "wide", pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "narrow", pads=[2, 2, 2, 2]),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "add"),
        helper.make_node("ConvTranspose", ["sum", "w3"], ["x"], "up", strides=[2, 2]),
    ]
    shapes = {"w1": (8, 3, 7, 7), "w2": (8, 8, 5, 5), "w3": (8, 4, 2, 2)}
    constants = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    master = classifier(nodes, 4, constants)
    model = quantise(master, fp8_table(master))
    types = {layer.name: layer.type for layer in layer_types(model)}
    assert types == {"wide": "fp16", "narrow": "fp8", "up": "fp16", "fc": "fp8"}
    made_by = producers(model.graph)
    for name in ("wide", "up"):
        node = next(item for item in model.graph.node if item.name == name)
        assert all(
            made_by[it].op_type not in {"QuantizeLinear", "DequantizeLinear"} for it in node.input if it in made_by
        )


def test_a_graph_of_nothing_but_large_filters_is_refused() -> None:
    conv = helper.make_node("Conv", ["input", "w"], ["logits"], "conv")
    master = graph_of([conv], {"w": np.ones((5, 3, 16, 16), np.float32)}, output=["batch", 5, 1, 1])
    with pytest.raises(GraphError, match="to quantise to fp8"):
        quantise(master, replace(given_table(master, input=(1.0, -1.0, 1.0)), precision="fp8"))


def test_onnx_runtimes_placement_has_no_fp8() -> None:
    master = tiny_graph()
    with pytest.raises(UnsupportedError, match="don't compute in FP8"):
        quantise(master, fp8_table(master), "onnxruntime")


def test_a_written_graph_is_read_back_whole(tmp_path: Path) -> None:
    master = tiny_graph()
    model = quantise(master, fp8_table(master))
    save_graph(model, tmp_path / "m.fp8.onnx")
    assert load_graph(tmp_path / "m.fp8.onnx") == model
    save_graph(model, tmp_path / "outside.fp8.onnx", inline_limit=100)
    assert weights_digest(load_graph(tmp_path / "outside.fp8.onnx")) == weights_digest(model)


@pytest.mark.parametrize("amax", [0.0, 1e-9, 1e-3, 1.0, 3e4])
def test_scales_are_float16_numbers_whatever_the_range(amax: float) -> None:
    scale = symmetric(TensorRange(amax, -amax, amax), "fp8").scale
    assert scale == float(np.float16(scale)) > 0
    assert scale * 448 >= amax


@pytest.mark.parametrize("name", GRAPHS)
def test_tensorrt_for_rtx_builds_every_layer_in_fp8(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from engines.builders.audit import audit
    from engines.builders.options import BuildOptions
    from engines.builders.tensorrt import build_plan

    master = GRAPHS[name]()
    save_graph(quantise(master, fp8_table(master)), tmp_path / "m.fp8.onnx")
    built = build_plan(tmp_path / "m.fp8.onnx", "tensorrt-rtx", BuildOptions(compute_capabilities=("8.9", "12.0")))
    audit(built.layers, "fp8")
    assert len(built.layers.heavy) >= 4


def test_tensorrt_for_rtx_keeps_fp8s_product_of_scales_in_float32(tmp_path: Path) -> None:
    """Sums of products of FP8 numbers exceed what float16 holds by far, and the scales' product is below it."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from engines.builders.tensorrt import build_plan

    rng = np.random.default_rng(0)
    conv, gemm = rng.normal(0, 0.01, (8, 8, 3, 3)).astype(np.float32), rng.normal(0, 0.01, (32, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "wc"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "wf"], ["logits"], "fc", transB=1),
    ]
    master = graph_of(nodes, {"wc": conv, "wf": gemm}, shape=["batch", 8, 16, 16], output=["batch", 32])
    table = given_table(master, input=(0.01, -0.01, 0.01), mean=(0.01, 0.0, 0.01))
    save_graph(quantise(master, replace(table, precision="fp8")), tmp_path / "m.fp8.onnx")
    plan = bytes(build_plan(tmp_path / "m.fp8.onnx", "tensorrt-rtx").data)
    step = half_up(np.array([np.float32(0.01) / np.float32(448)]))[0]
    for weight, half in ((conv, True), (gemm, False)):
        scales = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / np.float32(448)
        scales = (half_up(scales) if half else scales) * step
        assert scales.max() < 2.0**-24 * 0.6  # a float16 would hold zeros
        assert scales.astype(np.float32).tobytes() in plan


@pytest.mark.parametrize(
    ("filters", "type_"), [((4, 8), "fp8"), ((1, 32), "fp8"), ((1, 33), "fp16"), ((6, 6), "fp16")]
)
def test_tensorrt_for_rtx_has_fp8_kernels_for_filters_up_to_the_size_that_is_assumed(
    tmp_path: Path, filters: tuple[int, int], type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q/DQ around any filter: where this fails, a newer library has other kernels than the placement thinks."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from engines.builders.tensorrt import build_plan

    assert (filters[0] * filters[1] <= FP8_KERNEL_SIZE) == (type_ == "fp8")
    monkeypatch.setattr("calibration.placement.tensorrt.FP8_KERNEL_SIZE", 10**6)
    weight = np.random.default_rng(0).normal(0, 0.1, (16, 16, *filters)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["logits"], "relu"),
    ]
    shape = ["batch", 16, 36, 36]
    master = graph_of(nodes, {"w": weight}, shape=shape, output=["batch", 16, *(37 - size for size in filters)])
    save_graph(
        quantise(master, replace(given_table(master, input=(1.0, -1.0, 1.0)), precision="fp8")), tmp_path / "m.onnx"
    )
    assert [layer.type for layer in build_plan(tmp_path / "m.onnx", "tensorrt-rtx").layers.heavy] == [type_]
