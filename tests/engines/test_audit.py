"""Layer reports from every source, and the verdict on them."""

import json
import re
from pathlib import Path

import onnx
import pytest

from engines.builders.audit import MISSING, Kind, Layer, LayerReport, audit, onnx_nodes, widest
from engines.builders.inspector import inspected_layers, inspected_tensors
from engines.builders.rtx_plan import read_rtx_layers, rtx_layers
from engines.errors import AuditError, EngineFormatError, InputError
from tests.engines.graphs import BF16, fp8_graph, int8_graph, quantised_graph, typed_graph
from tests.tiny import tiny_graph


def report(*layers: tuple[str, Kind, str]) -> LayerReport:
    return LayerReport(
        tuple(Layer(f"{node}_U0", (node,), kind, kind_type) for node, kind, kind_type in layers), "plan"
    )


def test_layers_of_one_type_pass_and_shares_add_up() -> None:
    mixed = report(("a", "conv", "int8"), ("b", "conv", "int8"), ("c", "matmul", "fp16"), ("d", "other", "fp32"))
    assert mixed.shares() == pytest.approx({"int8": 2 / 3, "fp16": 1 / 3})
    audit(report(("a", "conv", "fp16"), ("b", "matmul", "fp16"), ("c", "other", "fp32")), "fp16")


def test_wrong_layers_are_named_by_their_nodes_and_many_are_counted() -> None:
    with pytest.raises(AuditError) as caught:
        audit(report(*((f"conv{index}", "conv", "fp32") for index in range(11))), "int8")
    assert "'conv7' (conv) is fp32 and 3 more" in caught.value.cause
    assert "conv8" not in caught.value.cause


def test_kept_nodes_may_be_wider_but_not_the_same() -> None:
    kept = report(("a", "conv", "fp16"), ("b", "conv", "int8"))
    audit(kept, "int8", keep=["a"])
    with pytest.raises(AuditError, match=r"'a' \(conv\) is fp16"):
        audit(kept, "int8")
    with pytest.raises(AuditError, match=r"kept wider than int8 on purpose.*'b' \(conv\) is int8"):
        audit(kept, "int8", keep=["a", "b"])


def test_wider_layers_of_a_partial_engine_are_told_instead_of_refused() -> None:
    layers = (
        Layer("a", ("a",), "conv", "int8"),
        Layer("b", ("b",), "conv", "fp16"),
        Layer("c", ("c",), "matmul", MISSING),
    )
    report = LayerReport(layers, "plan")
    with pytest.raises(AuditError, match="--allow-partial"):
        audit(report, "int8")
    assert audit(report, "int8", allow_partial=True) == ("'b' (conv) is fp16", "'c' (matmul) is not found")
    assert audit(LayerReport(layers[:1], "plan"), "int8", allow_partial=True) == ()


@pytest.mark.parametrize(
    ("types", "precision", "keep"),
    [
        (("fp16", "fp16"), "int8", ()),  # nothing is what was asked for
        (("fp32", "fp16"), "fp32", ()),  # narrower: less exact than asked for
        (("fp16", "int64"), "fp16", ()),
        (("int8", "int8"), "int8", ("a",)),  # kept, and isn't
    ],
)
def test_what_no_partial_engine_may_be(types: tuple[str, str], precision: str, keep: tuple[str, ...]) -> None:
    report = LayerReport(
        tuple(Layer(name, (name,), "conv", kind) for name, kind in zip("ab", types, strict=True)), "plan"
    )
    with pytest.raises(AuditError):
        audit(report, precision, keep=keep, allow_partial=True)


def test_layers_are_named_with_the_pytorch_module_that_they_come_from() -> None:
    report = LayerReport(
        (Layer("Conv_3", ("Conv_3",), "conv", "fp32"), Layer("fc", ("fc",), "matmul", "fp32")), "plan"
    )
    with pytest.raises(AuditError) as caught:
        audit(report, "fp16", modules=lambda: {"Conv_3": "features.0", "fc": "fc"})
    assert caught.value.cause == (
        "asked for fp16, but in the engine 'Conv_3' (conv, features.0) is fp32, 'fc' (matmul) is fp32"
    )


def test_an_engine_without_a_readable_convolution_proves_nothing() -> None:
    with pytest.raises(AuditError, match="isn't proven"):
        audit(report(("pool", "other", "fp16")), "fp16")


def test_a_report_covers_every_node_of_the_graph() -> None:
    found = LayerReport(
        (
            Layer("conv_U1", ("conv", "relu"), "conv", "int8"),
            Layer("_gemm_mha_v2", ("qk", "softmax", "sv"), "other", "fp16"),
            Layer("conv_prepare", ("conv",), "other", "fp32"),
        ),
        "plan",
    )
    seen = found.covering({"conv": "conv", "qk": "matmul", "lost": "conv"})
    assert [(layer.label, layer.kind, layer.type) for layer in seen.heavy] == [
        ("conv", "conv", "int8"),
        ("qk", "matmul", "fp16"),
        ("lost", "conv", MISSING),
    ]
    with pytest.raises(AuditError, match="'lost' \\(conv\\) is not found") as caught:
        audit(seen, "int8", keep=["qk"])
    assert "merged or dropped" in caught.value.remedy


def test_a_report_survives_json() -> None:
    original = report(("a", "conv", "int8"), ("b", "other", "fp32"))
    assert LayerReport.from_json(json.loads(json.dumps(original.to_json()))) == original
    with pytest.raises(EngineFormatError, match="damaged"):
        LayerReport.from_json({"layers": [{"name": "a", "nodes": [], "kind": "odd", "type": "fp32"}], "source": ""})


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("[ONNX Layer: a][ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: a]\x1f[ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: /f/0[1]/Conv]\x1e[ONNX Layer: /f/0[1]/Conv]", ("/f/0[1]/Conv",)),
        ("", ()),
    ],
)
def test_onnx_nodes_are_read_from_a_builders_metadata(text: str, nodes: tuple[str, ...]) -> None:
    assert onnx_nodes(text) == nodes


def test_the_widest_type_decides() -> None:
    assert widest(["int8", "fp32"]) == "fp32"
    assert widest(["int8", "int8"]) == "int8"
    assert widest(["int64", "fp16"]) == "fp16"
    assert widest(["int64"]) == "int64"
    assert widest([]) == "unknown"


# The inspector's JSON as TensorRT 10 writes it: a plain layer, a quantised one, compiled ones, a residual input.
INSPECTED_10 = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [
                {"Name": "input", "Dimensions": [8, 3, 16, 16], "Format/Datatype": "Row major linear FP16 format"}
            ],
            "Outputs": [
                {"Name": "r", "Dimensions": [8, 8, 16, 16], "Format/Datatype": "Row major linear FP16 format"}
            ],
            "Weights": {"Type": "Half", "Count": 216},
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [
                {"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
                {"Name": "skip", "Format/Datatype": "Row major linear FP32"},
            ],
            "Weights": {"Type": "Int8", "Count": 216},
            "Metadata": "[ONNX Layer: conv2]",
        },
        {
            "Name": "fc1_myl0_9",
            "LayerType": "gemm",
            "Inputs": [{"Name": "b", "Format/Datatype": "Int8"}],
            "Constants": [{"Name": "w", "Format/Datatype": "Int8"}, {"Name": "scale", "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: fc1]",
        },
        {
            "Name": "qk",
            "LayerType": "MatrixMultiply",
            "ParameterType": "Matrix Multiply",
            "Inputs": [{"Name": "q", "Format/Datatype": "BFloat16"}, {"Name": "k", "Format/Datatype": "Float"}],
        },
        {
            "Name": "softmax",
            "LayerType": "kgen",
            "Inputs": [{"Name": "c", "Format/Datatype": "Row major linear FP32"}],
        },
    ],
    "Bindings": ["input", "logits"],
}
# TensorRT 11 splits type from layout and calls the bindings otherwise.
INSPECTED_11 = {
    "Layers": [
        {
            "Name": "conv1_myl0_1",
            "LayerType": "correlation",
            "Inputs": [{"Name": "x", "Datatype": "Int8", "Format": "(NHWC) Channel major format"}],
            "Constants": [
                {"Name": "alpha", "Dimensions": [1, 8, 1, 1], "Datatype": "Float"},
                {"Name": "w", "Dimensions": [8, 3, 3, 3], "Datatype": "Int8"},
            ],
            "Metadata": "[ONNX Layer: conv1][ONNX Layer: conv1.xd]",
        },
        {
            "Name": "conv2_myl0_2",
            "LayerType": "correlation",
            "Inputs": [{"Name": "y", "Datatype": "Half"}, {"Name": "w", "Datatype": "Half"}],
            "Constants": [{"Name": "bias", "Datatype": "Float"}],
            "Metadata": "[ONNX Layer: conv2]",
        },
    ],
    "I/O Tensors": [{"Name": "input", "IOMode": "Input"}, {"Name": "logits", "IOMode": "Output"}],
}


def test_the_inspectors_json_of_tensorrt_10_becomes_a_report() -> None:
    layers = inspected_layers(json.dumps(INSPECTED_10)).layers
    assert [(layer.label, layer.kind, layer.type) for layer in layers] == [
        ("conv1", "conv", "fp16"),
        ("conv2", "conv", "int8"),
        ("fc1", "matmul", "int8"),
        ("qk", "matmul", "fp32"),
        ("softmax", "other", "fp32"),
    ]
    assert layers[0].nodes == ("conv1", "relu1")


def test_the_inspectors_json_of_tensorrt_11_becomes_a_report() -> None:
    found = inspected_layers(json.dumps(INSPECTED_11))
    assert [(layer.label, layer.type) for layer in found.heavy] == [("conv1", "int8"), ("conv2", "fp16")]
    with pytest.raises(AuditError, match="'conv2' \\(conv\\) is fp16"):
        audit(found, "int8")


@pytest.mark.parametrize("name", ["FP8", "Row major linear FP8 format"])
def test_the_inspector_tells_fp8_from_int8(name: str) -> None:
    found = inspected_layers(json.dumps(INSPECTED_11).replace("Int8", name))
    assert [(layer.label, layer.type) for layer in found.heavy] == [("conv1", "fp8"), ("conv2", "fp16")]
    with pytest.raises(AuditError, match="asked for fp8, but in the engine 'conv2'") as caught:
        audit(found, "fp8")
    assert "--keep" in caught.value.remedy


@pytest.mark.parametrize("text", [json.dumps(INSPECTED_10), json.dumps(INSPECTED_11)], ids=["10", "11"])
def test_inputs_and_outputs_are_named_in_either_json(text: str) -> None:
    assert inspected_tensors(text) == ("input", "logits")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "isn't understood"),
        ("{}", "isn't understood"),
        ('{"Layers": 3}', "isn't understood"),
        ('{"Layers": [{"LayerType": "kgen"}]}', "isn't understood"),
        ('{"Layers": ["conv1", "fc1"], "Bindings": []}', "not their types"),
    ],
)
def test_an_inspector_that_tells_no_types_is_an_error(text: str, words: str) -> None:
    with pytest.raises(EngineFormatError, match=words):
        inspected_layers(text)
    if "Bindings" not in text:
        with pytest.raises(EngineFormatError, match="names no tensors"):
            inspected_tensors(text)


def test_a_file_without_programs_is_not_taken_for_a_plan_without_layers(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"vtrt" + bytes(500))
    with pytest.raises(EngineFormatError, match="no program"):
        read_rtx_layers(path)
    path.write_bytes(b"")
    with pytest.raises(EngineFormatError, match="is empty"):
        read_rtx_layers(path)
    with pytest.raises(InputError, match="does not exist"):
        read_rtx_layers(tmp_path / "none")


PLAN = b"""\0\1header {
  version = 5
}
descriptors {
  tensor={ dims={ 1 } name="x" rank0=0 type=fp8_e4m3 }
  sub_tensor={ base="x" name="w" strides={ 1 } type=fp8_e4m3 }
  tensor={ name="b" type=float }
}
main {
 label bb1:
  corrltn={ name="c_U1" output={"y" } input={"x" "w" "b" } stream=0 layers="[ONNX Layer: c]" }
}
\0 binary"""


def test_eight_bit_floats_are_told_from_integers() -> None:
    assert rtx_layers(PLAN).layers == (Layer("c_U1", ("c",), "conv", "fp8"),)


def verbose_types(model: onnx.ModelProto) -> tuple[bytes, dict[str, list[str]]]:
    """A plan, and the builder's own verbose listing: types of data and weights for each convolution and product.

    Built here apart from the toolkit's builder, so that nothing is shared but the library.
    """
    trt = pytest.importorskip("tensorrt_rtx")
    from engines.builders.log import library_logger, listening

    lines: list[str] = []
    with listening(trt) as log:
        log.add = lambda _, message: lines.append(message)  # type: ignore[method-assign]
        builder = trt.Builder(library_logger(trt))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, library_logger(trt))
        assert parser.parse(model.SerializeToString())
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        profile = builder.create_optimization_profile()
        profile.set_shape("input", (1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))
        config.add_optimization_profile(profile)
        plan = bytes(memoryview(builder.build_serialized_network(network, config)).cast("B"))
    listed: dict[str, list[str]] = {}
    for line in "\n".join(lines).splitlines():
        found = re.match(
            r"Name: .*?, LayerType: (correlation|gemm|runtime_fusion),.*Metadata: \[ONNX Layer: (\w+)\]", line
        )
        if found:
            inputs, _, rest = line.partition("Constants: [")
            constants = rest.partition("Outputs: [")[0]
            listed[found.group(2)] = re.findall(r"Datatype: (\w+)", inputs) + re.findall(
                r"Datatype: (\w+)", constants
            )
    return plan, listed


@pytest.mark.parametrize(
    "model",
    [
        tiny_graph(lrn=True),
        typed_graph(tiny_graph(lrn=True)),
        typed_graph(tiny_graph(), BF16),
        quantised_graph(tiny_graph()),
        int8_graph(),
        int8_graph(wrong_axis={"conv2"}),
        int8_graph(per_channel_activation={"conv1"}),
        fp8_graph(),
        fp8_graph(skip={"conv1", "fc2"}),
        quantised_graph(tiny_graph(), fp8=True),
    ],
    ids=[
        *("fp32", "fp16", "bf16", "int8 in fp32", "int8 in fp16", "wrong axis", "per channel"),
        *("fp8 in fp16", "partly fp8", "fp8 in fp32"),
    ],
)
def test_types_read_from_a_plan_agree_with_the_builders_own_listing(model: onnx.ModelProto) -> None:
    plan, listed = verbose_types(model)
    names = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "FP8": "fp8"}
    read = {layer.label: layer.type for layer in rtx_layers(plan).heavy}
    assert read.keys() == listed.keys() == {"conv1", "conv2", "fc1", "fc2"}
    for node, types in listed.items():
        # Scales and accumulators are wider than data and weights, which the listing doesn't tell apart.
        assert min((names[kind] for kind in types), key=["int8", "fp8", "fp16", "bf16", "fp32"].index) == read[node]
