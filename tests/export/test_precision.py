"""FP16 and BF16 graphs: which nodes change, what happens at the boundaries, and that the numbers are right."""

import sys
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError, InputError
from export.graph import check_graph, layer_types, read_derived, read_metadata, tensor_specs, weights_digest
from export.passes.uint8_input import take_uint8_input
from export.precision import to_half
from tests.tiny import METADATA, SIZE, tiny_graph


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    return result


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)


def types_of(model: onnx.ModelProto) -> list[str]:
    return [layer.type for layer in layer_types(model)]


def graph_of(nodes: Iterable[onnx.NodeProto], inputs: Any, outputs: Any, *constants: Any) -> onnx.ModelProto:
    """A graph of FP32 tensors; ``constants`` are (name, array)."""
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [make(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [make(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("lrn", [False, True])
def test_every_layer_becomes_fp16_and_the_logits_stay_within_its_rounding(lrn: bool) -> None:
    model = tiny_graph(lrn=lrn)
    half = to_half(model, "fp16")
    check_graph(half)
    onnx.checker.check_model(half, full_check=True)
    assert types_of(half) == ["fp16"] * 4
    expected, found = run(model, input=images()), run(half, input=images())
    assert 0 < np.abs(found - expected).max() < 2**-9 * np.abs(expected).max()


def test_the_numbers_are_those_of_onnxruntimes_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the converter's package appends its folder
    from onnxruntime.transformers.float16 import convert_float_to_float16

    reference = convert_float_to_float16(tiny_graph(), keep_io_types=False)
    ours = to_half(tiny_graph(), "fp16", keep_io=False)
    theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in reference.graph.initializer}
    for tensor in ours.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), theirs[tensor.name])
    x = images().astype(np.float16)
    np.testing.assert_array_equal(run(ours, input=x), run(reference, input=x))


def test_inputs_outputs_names_and_metadata_stay() -> None:
    model = tiny_graph()
    half = to_half(model, "fp16")
    assert half.graph.input == model.graph.input
    assert half.graph.output == model.graph.output
    assert {tensor.name for tensor in half.graph.initializer} == {tensor.name for tensor in model.graph.initializer}
    assert [n.name for n in half.graph.node if n.op_type != "Cast"] == [n.name for n in model.graph.node]
    assert read_metadata(half) == METADATA
    derived = read_derived(half)
    assert derived is not None
    assert (derived.precision, derived.weights) == ("fp16", weights_digest(model))


def test_the_graph_given_is_not_changed_and_the_result_is_half_as_large() -> None:
    model = tiny_graph()
    half = to_half(model, "fp16")
    assert model == tiny_graph()
    assert half.ByteSize() < 0.51 * model.ByteSize()
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 2
    assert to_half(model, "fp16") == half


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_inputs_and_outputs_can_be_half_too(precision: Any, dtype: str) -> None:
    half = to_half(tiny_graph(), precision, keep_io=False)
    specs = tensor_specs(half)
    assert specs["input"].dtype == specs["logits"].dtype == dtype
    assert not any(node.op_type == "Cast" for node in half.graph.node)


def test_bf16_lifts_the_opset_and_rounds_as_ml_dtypes_does() -> None:
    model = tiny_graph(lrn=True)
    half = to_half(model, "bf16")
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version == 22
    assert types_of(half) == ["bf16"] * 4
    originals = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in half.graph.initializer:
        assert tensor.data_type == TensorProto.BFLOAT16
        expected = originals[tensor.name].astype(ml_dtypes.bfloat16)
        assert tensor.raw_data == expected.tobytes()


def test_bf16_computes_what_the_fp32_graph_does_within_its_rounding() -> None:
    from onnx.reference import ReferenceEvaluator

    model = graph_of(
        [helper.make_node("Gemm", ["x", "w"], ["h"], "fc"), helper.make_node("Relu", ["h"], ["y"], "relu")],
        [("x", ["batch", 16])],
        [("y", ["batch", 4])],
        ("w", np.random.default_rng(0).normal(0, 1, (16, 4)).astype(np.float32)),
    )
    x = np.random.default_rng(1).normal(0, 1, (8, 16)).astype(np.float32)
    found = ReferenceEvaluator(to_half(model, "bf16")).run(None, {"x": x})[0]
    expected = run(model, x=x)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 2**-6 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lrn_computes_in_fp32_between_casts(precision: Any) -> None:
    half = to_half(tiny_graph(lrn=True), precision)
    specs = tensor_specs(half)
    lrn = next(node for node in half.graph.node if node.op_type == "LRN")
    assert specs[lrn.input[0]].dtype == "float32"
    assert specs["lrn"].dtype == "float32"
    assert specs["pool"].dtype == ("float16" if precision == "fp16" else "bfloat16")


def test_lrn_of_activations_whose_squares_overflow_fp16_is_right() -> None:
    model = tiny_graph(lrn=True)
    large = images() * 1000
    expected, found = run(model, input=large), run(to_half(model, "fp16"), input=large)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < 2**-8 * np.abs(expected).max()


def _scaled(name: str, factor: float) -> onnx.ModelProto:
    model = tiny_graph()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    return model


@pytest.mark.parametrize(("factor", "expected"), [(1e6, "fp32"), (1e-7, "fp32"), (1e-3, "fp16"), (10, "fp16")])
def test_weights_that_fp16_cannot_hold_keep_their_layer_in_fp32(factor: float, expected: str) -> None:
    model = _scaled("fc1.weight", factor)
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert types_of(half) == ["fp16", "fp16", expected, "fp16"]
    if factor < 10:
        reference, found = run(model, input=images()), run(half, input=images())
        assert np.abs(found - reference).max() < 2**-8 * np.abs(reference).max()


def test_bf16_holds_weights_that_fp16_cannot() -> None:
    assert types_of(to_half(_scaled("fc1.weight", 1e6), "bf16")) == ["bf16"] * 4
    assert types_of(to_half(_scaled("fc1.weight", 1e-7), "bf16")) == ["bf16"] * 4


def test_nodes_kept_by_name_stay_fp32_and_an_unknown_name_is_refused() -> None:
    half = to_half(tiny_graph(), "fp16", keep=["conv2", "fc2"])
    onnx.checker.check_model(half, full_check=True)
    assert types_of(half) == ["fp16", "fp32", "fp16", "fp32"]
    np.testing.assert_allclose(run(half, input=images()), run(tiny_graph(), input=images()), atol=5e-3)
    with pytest.raises(InputError, match="no node called conv9"):
        to_half(tiny_graph(), "fp16", keep=["conv9"])


def test_a_constant_of_half_and_float_nodes_is_stored_in_both_types() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    model = graph_of(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
            helper.make_node("MatMul", ["a", "w"], ["y"], "second"),
        ],
        [("x", ["batch", 6])],
        [("y", ["batch", 6])],
        ("w", weight),
    )
    half = to_half(model, "fp16", keep=["second"])
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert stored.keys() == {"w", "w.fp16"}
    np.testing.assert_array_equal(stored["w"], weight)
    np.testing.assert_array_equal(stored["w.fp16"], weight.astype(np.float16))
    assert types_of(half) == ["fp16", "fp32"]


def test_consumers_share_one_cast_and_an_output_that_is_used_inside_keeps_its_name() -> None:
    model = graph_of(
        [
            helper.make_node("Relu", ["x"], ["y"], "relu"),
            helper.make_node("Exp", ["y"], ["e"], "exp"),
            helper.make_node("LRN", ["y"], ["l"], "lrn", size=3),
            helper.make_node("Add", ["e", "l"], ["z"], "add"),
        ],
        [("x", ["batch", 4, 2, 1])],
        [("y", ["batch", 4, 2, 1]), ("z", ["batch", 4, 2, 1])],
    )
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert casts == [
        ("x", "x.fp16"),
        ("y.fp16", "y"),
        ("e", "e.fp16"),
        ("l", "l.fp16"),
        ("z.fp16", "z"),
    ]
    assert [node.input[0] for node in half.graph.node if node.op_type in {"Exp", "LRN"}] == ["y", "y"]
    x = np.linspace(-2, 2, 16, dtype=np.float32).reshape(2, 4, 2, 1)
    session = onnxruntime.InferenceSession(half.SerializeToString())
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for found, wanted in zip(session.run(None, {"x": x}), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3)


def test_constant_nodes_become_initializers_and_resize_keeps_fp32_scales() -> None:
    model = graph_of(
        [
            helper.make_node("Constant", [], ["two"], "c", value_float=2.0),
            helper.make_node("Mul", ["x", "two"], ["d"], "mul"),
            helper.make_node("Resize", ["d", "", "s"], ["y"], "resize", mode="nearest"),
        ],
        [("x", ["batch", 1, 2, 2])],
        [("y", ["batch", 1, 4, 4])],
        ("s", np.array([1, 1, 2, 2], np.float32)),
    )
    half = to_half(model, "fp16")
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert stored == {"two": TensorProto.FLOAT16, "s": TensorProto.FLOAT}
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(run(half, x=x), (2 * x).repeat(2, 2).repeat(2, 3))


def test_pixels_are_normalised_in_fp32_before_the_first_half_layer() -> None:
    model = tiny_graph()
    take_uint8_input(model.graph, METADATA.preprocess)
    half = to_half(model, "fp16")
    specs = tensor_specs(half)
    assert specs["input"].dtype == "uint8"
    assert specs["pixels.shift"].dtype == "float32"
    assert specs["conv1"].dtype == "float16"
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    floats = METADATA.preprocess.normalise(pixels)
    np.testing.assert_array_equal(run(half, input=pixels), run(to_half(tiny_graph(), "fp16"), input=floats))


def _quantised(scale: float, opset: int = 20) -> onnx.ModelProto:
    """A Gemm with Q/DQ on data and weights, a float one behind it."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (8, 16)).astype(np.float32)
    scales = (np.abs(weight).max(1) / 127).astype(np.float16).astype(np.float32) * np.float32(scale)
    stored = np.clip(np.rint(weight / scales[:, None] * scale), -127, 127).astype(np.int8)
    model = graph_of(
        [
            helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["xq"], "xq"),
            helper.make_node("DequantizeLinear", ["xq", "sx", "z"], ["xd"], "xd"),
            helper.make_node("DequantizeLinear", ["w", "sw", "zs"], ["wd"], "wd", axis=0),
            helper.make_node("Gemm", ["xd", "wd", "b"], ["h"], "fc1", transB=1),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("Gemm", ["r", "v"], ["y"], "fc2"),
        ],
        [("x", ["batch", 16])],
        [("y", ["batch", 4])],
        ("sx", np.float32(0.03125)),
        ("z", np.int8(0)),
        ("w", stored),
        ("sw", scales),
        ("zs", np.zeros(8, np.int8)),
        ("b", rng.normal(0, 1, 8).astype(np.float32)),
        ("v", rng.normal(0, 1, (8, 4)).astype(np.float32)),
    )
    model.opset_import[0].version = opset
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("opset", [13, 20])
def test_the_remainder_of_a_quantised_graph_becomes_fp16_with_exact_scales(opset: int) -> None:
    model = _quantised(1, opset)
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version >= 19
    assert types_of(half) == ["int8", "fp16"]
    specs = tensor_specs(half)
    assert specs["sx"].dtype == specs["sw"].dtype == specs["xd"].dtype == specs["wd"].dtype == "float16"
    assert specs["w"].dtype == specs["xq"].dtype == "int8"
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    for name in ("sx", "sw", "w"):
        np.testing.assert_array_equal(after[name].astype(np.float64), before[name].astype(np.float64))
    x = np.random.default_rng(2).normal(0, 1, (5, 16)).astype(np.float32)
    x = x.astype(np.float16).astype(np.float32)
    expected = run(model, x=x)
    np.testing.assert_allclose(run(half, x=x), expected, atol=2**-8 * np.abs(expected).max())


@pytest.mark.parametrize("scale", [1e-9, 1e8])
def test_a_scale_that_fp16_cannot_hold_is_an_error_that_names_the_node(scale: float) -> None:
    with pytest.raises(GraphError, match="a scale of node 'wd' can't be a fp16 number"):
        to_half(_quantised(scale), "fp16")


def test_an_int8_graph_keeps_its_own_note_of_origin() -> None:
    from export.graph import Derived, write_derived

    model = _quantised(1)
    write_derived(model, Derived("int8", "sha256:1", placement="tensorrt", remainder="fp16"))
    derived = read_derived(to_half(model, "fp16"))
    assert derived is not None
    assert derived.precision == "int8"


def test_what_cannot_be_typed_is_refused() -> None:
    with pytest.raises(InputError, match="precision 'fp8'"):
        to_half(tiny_graph(), "fp8")  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="no FP32 tensors"):
        to_half(to_half(tiny_graph(), "fp16", keep_io=False), "fp16")
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], [("x", [1])], [("y", [1])], ("c", np.array(True)))
    model.graph.node[0].CopyFrom(
        helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)
    )
    with pytest.raises(GraphError, match="node 'choice' holds a subgraph"):
        to_half(model, "fp16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("keep_io", [True, False])
def test_tensorrt_for_rtx_builds_the_typed_graph(precision: Any, keep_io: bool) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    model = to_half(tiny_graph(lrn=True), precision, keep_io=keep_io)
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, SIZE, SIZE), (2, 3, SIZE, SIZE), (4, 3, SIZE, SIZE))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
