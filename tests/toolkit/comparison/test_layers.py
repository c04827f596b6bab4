import json
import tracemalloc
import zipfile
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.builders.audit import Layer, LayerReport
from engines.passport import Passport, passport_path
from export.properties import Derived, write_derived
from toolkit.comparison.layers import Layers, layers_of

INTEGER_KERNELS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}


def quantised(op: str, *, relu: bool, result: bool, bias: str | None) -> onnx.ModelProto:
    """One convolution or product behind Q/DQ, with or without a ReLU, a quantised result and a bias."""
    rng = np.random.default_rng(0)
    shape, weights = {
        "Conv": (("n", 4, 6, 6), (8, 4, 3, 3)),
        "Gemm": (("n", 16), (16, 8)),
        "MatMul": (("n", 16), (16, 8)),
    }[op]
    constants = {
        "scale": np.float32(0.05),
        "zero": np.uint8(128),
        "weight.scale": np.full(8, 0.01, np.float32) if op == "Conv" else np.float32(0.01),
        "weight.zero": np.zeros(8, np.int8) if op == "Conv" else np.int8(0),
        "weight": rng.integers(-127, 127, weights, np.int8),
        "result.scale": np.float32(0.1),
        "result.zero": np.uint8(0 if relu else 128),
    }
    node = helper.make_node
    per = {"axis": 0} if op == "Conv" else {}
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["x.q"]),
        node("DequantizeLinear", ["x.q", "scale", "zero"], ["x.dq"]),
        node("DequantizeLinear", ["weight", "weight.scale", "weight.zero"], ["w"], **per),
    ]
    inputs = ["x.dq", "w"]
    if bias == "float":
        constants["bias"] = rng.standard_normal(8).astype(np.float32)
        inputs.append("bias")
    elif bias == "int32":
        constants |= {
            "bias.q": rng.integers(-99, 99, 8, np.int32),
            "bias.scale": constants["weight.scale"] * np.float32(0.05),
        }
        constants["bias.zero"] = np.zeros_like(constants["bias.scale"], np.int32)
        nodes.append(node("DequantizeLinear", ["bias.q", "bias.scale", "bias.zero"], ["bias"], **per))
        inputs.append("bias")
    nodes.append(node(op, inputs, ["y"], name="layer"))
    last = "y"
    if relu:
        nodes.append(node("Relu", [last], ["y.relu"]))
        last = "y.relu"
    if result:
        nodes += [
            node("QuantizeLinear", [last, "result.scale", "result.zero"], ["y.q"]),
            node("DequantizeLinear", ["y.q", "result.scale", "result.zero"], ["y.dq"]),
        ]
        last = "y.dq"
    nodes.append(node("Softmax", [last], ["z"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CASES = [
    case
    for case in product(["Conv", "Gemm", "MatMul"], [False, True], [False, True], [None, "float", "int32"])
    if case[0] != "MatMul" or case[3] is None
]


@pytest.mark.parametrize(("op", "relu", "result", "bias"), CASES)
def test_a_layer_is_unfused_exactly_where_onnx_runtime_runs_it_in_float(tmp_path, op, relu, result, bias):
    path, optimised = tmp_path / "model.onnx", tmp_path / "optimised.onnx"
    onnx.save(quantised(op, relu=relu, result=result, bias=bias), path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 4
    onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
    )
    kernels = {node.op_type for node in onnx.load(optimised).graph.node}
    layers = layers_of(path)
    assert layers.precision == "int8"
    assert layers.shares == {"int8": 1.0}
    assert layers.unfused == (() if kernels & INTEGER_KERNELS else ("layer",)), kernels


def test_layers_that_stayed_wider_are_named_in_order(tmp_path):
    model = quantised("Conv", relu=True, result=True, bias="int32")
    nodes = model.graph.node
    for name, source in (("second", "y.dq"), ("third", "second")):
        nodes.insert(len(nodes) - 1, helper.make_node("Conv", [source, f"{name}.w"], [name], name=name))
        model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), f"{name}.w"))
    nodes[-1].input[0] = "third"
    write_derived(model, Derived("int8", "sha256:0", placement="onnxruntime"))
    onnx.save(model, tmp_path / "model.onnx")
    found = layers_of(tmp_path / "model.onnx")
    assert found.float_layers == ("second", "third")
    assert found.shares == {"fp32": 2 / 3, "int8": 1 / 3}
    assert (found.source, found.precision, found.heavy, found.placement) == ("graph", "int8", 3, "onnxruntime")
    assert Layers.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_weights_are_not_needed_to_tell_the_layers(tmp_path):
    model = quantised("Gemm", relu=False, result=False, bias=None)
    big = numpy_helper.from_array(np.ones((16, 8000), np.float32), "big")
    model.graph.initializer.append(big)
    onnx.save(model, tmp_path / "whole.onnx")
    external = tmp_path / "external.onnx"
    onnx.save(model, external, save_as_external_data=True, location="gone", size_threshold=4096)
    (tmp_path / "gone").unlink()
    assert layers_of(external) == layers_of(tmp_path / "whole.onnx") != None  # noqa: E711 - both, and neither is None


def test_large_weights_are_not_even_copied(tmp_path):
    model = quantised("Gemm", relu=False, result=False, bias=None)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2000, 2000), np.float32), "big"))
    onnx.save(model, tmp_path / "model.onnx")
    del model
    layers_of(tmp_path / "model.onnx")  # imports what it needs
    tracemalloc.start()
    try:
        assert layers_of(tmp_path / "model.onnx").heavy == 1
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def plan(folder, layers, *, size=64, said=None):
    path = folder / "model.engine"
    path.write_bytes(b"ftrt".ljust(size, b"\0"))
    passport = Passport.of(path, backend="tensorrt", precision="int8", command="", layers=layers and layers.to_json())
    value = passport.to_json() | ({"size": said} if said else {})
    passport_path(path).write_text(json.dumps(value))
    return path, passport.digest


def test_a_plan_is_known_by_its_own_passport_only(tmp_path):
    report = LayerReport(
        (
            Layer("conv1 + relu", ("conv1",), "conv", "int8"),
            Layer("conv2", ("conv2",), "conv", "fp16"),
            Layer("fc", ("fc",), "matmul", "int8"),
            Layer("pool", ("pool",), "other", "fp32"),
        ),
        "inspector",
    )
    path, digest = plan(tmp_path, report)
    found = layers_of(path)
    assert (found.source, found.precision, found.heavy, found.float_layers) == ("passport", "int8", 3, ("conv2",))
    assert layers_of(path, digest=digest) == found
    assert layers_of(path, digest="sha256:another") is None
    path, _ = plan(tmp_path, report, said=63)
    assert layers_of(path) is None


def test_a_checkpoint_is_known_by_the_type_of_its_weights(tmp_path):
    torch = pytest.importorskip("torch")
    for kind, name in ((torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        path = tmp_path / f"{name}.pt"
        torch.save({"weight": torch.ones(4, dtype=kind), "steps": torch.tensor(3)}, path)
        found = layers_of(path)
        assert (found.source, found.precision, found.shares, found.heavy) == ("checkpoint", name, {name: 1.0}, 0)


@pytest.mark.parametrize("name", ["a.onnx", "a.engine", "a.pt", "a.json", "a.txt", "missing.onnx"])
@pytest.mark.parametrize("content", [b"", b"\x08\x07garbage", b"{}", b"PK\x03\x04"])
def test_of_a_damaged_file_nothing_is_told(tmp_path, name, content):
    if name != "missing.onnx":
        (tmp_path / name).write_bytes(content)
    assert layers_of(tmp_path / name) is None


def test_a_zip_that_is_no_checkpoint_has_no_layers(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme", "nothing")
    assert layers_of(tmp_path / "a.pt") is None
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", b"\xff\xffno pickle")
    assert layers_of(tmp_path / "b.pt") is None


def test_a_checkpoint_whose_bytes_were_changed_stops_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"FloatStorage" * 9)
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole.replace(b"FloatStorage", b"FloatStorags", 1))
    assert layers_of(tmp_path / "a.pt") is None
