"""The lint held against the real parser and builder of TensorRT for RTX, which need no GPU."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from calibration.lint import FLOAT, REFUSED, lint
from calibration.qdq import quantise
from engines.builders.tensorrt import build_plan
from engines.errors import BuildError
from export.precision import to_half
from tests.calibration.foreign_graphs import (
    I8,
    U8,
    good,
    half_quantised,
    options,
    placed,
    single,
    stock,
    with_between,
    with_bias,
    with_pool,
    with_scale_node,
    with_weight,
)
from tests.calibration.graphs import residual_graph, table_of
from tests.tiny import tiny_graph

pytest.importorskip("tensorrt_rtx")


def eight(kind: type = np.float32, value: float = 0.01, count: int = 8) -> np.ndarray:
    return np.full(count, value, kind)


WEIGHT = np.ones((16, 8, 3, 3), np.int8)

FAULTS: dict[str, tuple[Callable[[], onnx.ModelProto], set[str], str]] = {
    "int32 bias": (lambda: with_bias(np.int32), {"bias"}, REFUSED),
    "int16": (lambda: with_pool(zero=np.int16(0)), {"pool.quantized", "pool.dequantized"}, REFUSED),
    "zero point": (lambda: with_pool(zero=np.int8(3)), {"pool.quantized", "pool.dequantized"}, REFUSED),
    "uint8 zero point": (lambda: with_pool(zero=np.uint8(3)), {"pool.quantized", "pool.dequantized"}, REFUSED),
    "uint8 weight": (
        lambda: with_weight("conv2", WEIGHT.astype(np.uint8), zero=np.zeros(16, np.uint8)),
        {"conv2.weight.dequantized"},
        REFUSED,
    ),
    "scale 0": (lambda: with_pool(np.float32(0)), {"pool.quantized", "pool.dequantized"}, REFUSED),
    "negative scale": (lambda: with_pool(np.float32(-1)), {"pool.quantized", "pool.dequantized"}, REFUSED),
    "activation a channel": (lambda: with_pool(eight(), eight(np.int8, 0)), {"conv2"}, FLOAT),
    "activation in a list": (lambda: with_pool(eight(count=1), eight(np.int8, 0, 1)), {"conv2"}, FLOAT),
    "conv axis": (lambda: with_weight("conv2", None, eight(), eight(np.int8, 0), axis=1), {"conv2"}, FLOAT),
    "gemm axis": (
        lambda: with_weight("fc1", None, eight(count=1024), eight(np.int8, 0, 1024), axis=1),
        {"fc1"},
        FLOAT,
    ),
    "product axis": (lambda: single("MatMul", (64, 16), 0, 64), {"layer"}, FLOAT),
    "transposed axis": (lambda: single("Transposed", (16, 64), 1, 64), {"layer"}, FLOAT),
    "data in float": (lambda: half_quantised(0), {"conv2"}, FLOAT),
    "weight in float": (lambda: half_quantised(1), {"conv2"}, FLOAT),
    "relu between": (lambda: with_between("Relu"), {"conv2"}, FLOAT),
    "average between": (
        lambda: with_between("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        {"conv2"},
        FLOAT,
    ),
    "transposed convolution": (
        lambda: single("ConvTranspose", (8, 4, 2, 2), 1, 4, kernel_shape=[2, 2], strides=[2, 2]),
        {"layer"},
        FLOAT,
    ),
    "kept": (
        lambda: quantise(tiny_graph(), table_of(tiny_graph()), "tensorrt", keep=["conv1"], remainder="fp32"),
        {"conv1"},
        FLOAT,
    ),
    "products in float": (lambda: placed({"input": I8, "pool": I8}), {"fc1", "fc2"}, FLOAT),
}

FINE: dict[str, Callable[[], onnx.ModelProto]] = {
    "ours": good,
    "residual": lambda: quantise(residual_graph(), table_of(residual_graph()), "tensorrt", remainder="fp32"),
    "int8 bias": lambda: with_bias(np.int8),
    "pool between": lambda: with_between("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "transpose between": lambda: with_between("Transpose", perm=[0, 1, 3, 2]),
    "weight a tensor": lambda: with_weight("conv2", None, np.float32(0.01), I8),
    "constant scale": with_scale_node,
    "depthwise": lambda: single("Conv", (8, 1, 3, 3), 0, 8, group=8, pads=[1, 1, 1, 1]),
    "product": lambda: single("MatMul", (64, 16), 1, 16),
    "transposed": lambda: single("Transposed", (16, 64), 0, 16),
}


def built(model: onnx.ModelProto, folder) -> dict[str, str]:
    onnx.save(model, folder / "m.onnx")
    return {layer.label: layer.type for layer in build_plan(folder / "m.onnx", "tensorrt-rtx").layers.heavy}


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_lint_says_is_what_the_builder_does(name, tmp_path):
    make, nodes, effect = FAULTS[name]
    model = make()
    findings = [item for item in lint(model) if item.effect in {REFUSED, FLOAT}]
    assert {item.node for item in findings} == nodes
    assert {item.effect for item in findings} == {effect}
    if effect == REFUSED:
        with pytest.raises(BuildError) as caught:
            built(model, tmp_path)
        assert any(node in caught.value.cause for node in nodes) or "import initializer" in caught.value.cause
    else:
        assert {node for node, kind in built(model, tmp_path).items() if kind != "int8"} == nodes


@pytest.mark.parametrize("name", FINE)
def test_what_the_lint_passes_is_built_wholly_in_int8(name, tmp_path):
    model = FINE[name]()
    assert lint(model) == []
    assert set(built(model, tmp_path).values()) == {"int8"}


def test_uint8_is_read_as_int8_without_a_word(tmp_path):
    """The network that the parser makes is int8 with the scale of uint8, without room for numbers above 127."""
    import tensorrt_rtx as trt

    from engines.builders.log import library_logger, listening

    model = placed({"input": I8, "pool": U8})
    assert [item.node for item in lint(model) if item.effect == "wrong results"] == ["pool.Q"]
    with listening(trt):
        builder = trt.Builder(library_logger(trt))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, library_logger(trt))
        assert parser.parse(model.SerializeToString())
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        stored = {layer.name: layer.get_output(0).dtype for layer in layers if layer.type == trt.LayerType.QUANTIZE}
    assert stored["pool.Q"] == trt.DataType.INT8


@pytest.mark.parametrize("name", ["defaults", "uint8", "int16", "symmetric"])
@pytest.mark.parametrize("master", [tiny_graph(), residual_graph()], ids=["chain", "residual"])
def test_graphs_of_quantize_static_are_judged_as_the_builder_judges_them(name, master, tmp_path):
    model = stock(master, tmp_path, **options(name))
    refused = {item.node for item in lint(model) if item.effect == REFUSED}
    if name == "symmetric":  # with float biases
        assert not refused
        assert set(built(model, tmp_path).values()) == {"int8"}
    else:
        with pytest.raises(BuildError) as caught:
            built(model, tmp_path)
        assert any(node in caught.value.cause for node in refused) or "import initializer" in caught.value.cause


def test_large_filters_have_no_fp8_kernel(tmp_path):
    """The limit of the lint is the builder's."""
    from onnx import TensorProto, helper

    for size, effects in ((5, set()), (6, {FLOAT})):
        pads = [size // 2, size // 2, (size - 1) // 2, (size - 1) // 2]
        model = single("Conv", (16, 8, size, size), 0, 16, pads=pads)
        tensors = {item.name: item for item in model.graph.initializer}
        for name, shape in (("z", []), ("wz", [16]), ("w", [16, 8, size, size])):
            values = np.full(int(np.prod(shape)), float(name == "w"))
            tensors[name].CopyFrom(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, shape, values))
        assert {item.effect for item in lint(model)} == effects
        half = to_half(model, "fp16")
        assert {"fp8"} - set(built(half, tmp_path).values()) == ({"fp8"} if effects else set())
