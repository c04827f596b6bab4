"""What a build tells: node and PyTorch module of a failure, what to try, its log, and what a partial engine isn't."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.errors import AuditError, BuildError, GraphError, NodeError
from engines.passport import Passport
from export.graph import save_graph
from export.passes.module_names import MODULE_KEY
from tests.engines.graphs import fp8_graph, int8_graph
from tests.tiny import tiny_graph
from toolkit.building.command import build_command
from toolkit.building.explain import build_explained, explained
from toolkit.cli import run
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")


def with_modules(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as PyTorch's exporter would have left it: its own nodes know their modules."""
    for node in model.graph.node:
        if node.op_type in {"Conv", "Relu", "Gemm", "MaxPool"}:
            node.metadata_props.add(key=MODULE_KEY, value=f"net.{node.name}")
    return model


def failure(folder: Path, model: onnx.ModelProto, **options: object) -> BuildError:
    """The error of a build that has to fail, its log beside ``model.engine``."""
    model = with_modules(model)
    path = folder / "model.onnx"
    onnx.save(model, path)
    asked = BuildOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(BuildError) as caught:
        build_explained(path, lambda: model, "tensorrt-rtx", asked, engine=folder / "model.engine")
    return caught.value


def unknown_operator() -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.node[1].op_type = "Wibble"
    return model


def operator_without_a_rule() -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.node[1].op_type = "Unique"
    model.graph.node[1].name = ""
    return model


def mixed_types() -> onnx.ModelProto:
    model = tiny_graph()
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "conv1.weight"))
    return model


def int32_bias() -> onnx.ModelProto:
    """As stock quantize_static writes it."""
    model = tiny_graph()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.int32), "b.q"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, 0.01, np.float32), "b.s"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b.q", "b.s"], ["b.dq"], "b.dq", axis=0))
    model.graph.node[1].input[2] = "b.dq"
    return model


def uneven_sizes() -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.node[0].attribute[0].ints[:] = [1, 1]
    return model


@pytest.mark.parametrize(
    ("model", "node", "operator", "module", "reason", "remedy"),
    [
        (unknown_operator, "relu1", "Wibble", "", "Plugin not found", "doesn't know the operator 'Wibble'"),
        (operator_without_a_rule, "Unique → relu1", "Unique", "", "no rule for it", "can't do 'Unique'"),
        (mixed_types, "conv1", "Conv", "net.conv1", "`input` type is Float", "give the master graph"),
        (int32_bias, "b.dq", "DequantizeLinear", "net.conv1", "type Int32", "give the master graph"),
        (uneven_sizes, "fc1", "Gemm", "net.fc1", "must match", "check the sizes"),
    ],
)
def test_a_node_that_cannot_be_built_is_told_with_operator_module_reason_and_remedy(
    tmp_path: Path, model: object, node: str, operator: str, module: str, reason: str, remedy: str
) -> None:
    error = failure(tmp_path, model())  # type: ignore[operator]
    assert isinstance(error, NodeError)
    assert (error.node, error.operator, error.module) == (node, operator, module)
    of = f"{operator}, PyTorch module {module}" if module else operator
    assert error.cause.startswith(f"node '{node}' ({of}) of 'model.onnx' can't be built: ")
    assert reason in error.cause
    assert remedy in error.remedy
    assert "\n" not in error.cause + error.remedy


def test_a_failure_deep_in_the_builder_names_the_node_that_it_quotes(tmp_path: Path) -> None:
    error = failure(tmp_path, tiny_graph(), compute_capabilities=("7.5",))
    assert error.cause.startswith("node 'fc1' (Gemm, PyTorch module net.fc1) of 'model.onnx' can't be built: ")
    assert error.remedy.startswith("compute capability 7.5 takes FP16 graphs only")
    assert any("the library's log:" in note for note in error.__notes__)


@pytest.mark.parametrize(
    ("model", "options", "remedy"),
    [
        (fp8_graph, {"compute_capabilities": ("8.0",)}, "leave it out of --compute-capability"),
        (tiny_graph, {"workspace": 1 << 20}, "give more of --workspace"),
    ],
)
def test_a_failure_of_no_one_node_says_what_to_try(
    tmp_path: Path, model: object, options: dict[str, object], remedy: str
) -> None:
    error = failure(tmp_path, model(), **options)  # type: ignore[operator]
    assert not isinstance(error, NodeError)
    assert remedy in error.remedy


def test_a_reason_that_quotes_something_else_is_left_as_it_is() -> None:
    error = BuildError("it failed")
    error.reason = "no kernel for 'something else'"
    assert explained(error, tiny_graph(), "model.onnx") is error


def test_the_log_of_a_failed_build_is_kept_and_named_until_a_build_succeeds(tmp_path: Path) -> None:
    error = failure(tmp_path, unknown_operator())
    log = tmp_path / "model.engine.failed.log"
    assert str(log) in error.remedy
    assert "Wibble" in log.read_text()
    assert log.read_text() == error.log
    good = tmp_path / "good.onnx"
    save_graph(tiny_graph(), good)
    engine = tmp_path / "model.engine"
    report = build_engine(good, precision="fp32", backend="tensorrt-rtx", output=engine)
    assert not log.exists()
    assert report.log == tmp_path / "model.engine.log"
    assert "Importing initializer: conv1.bias" in report.log.read_text()
    assert Passport.read(report.passport).log == "model.engine.log"
    assert report.to_json()["log"] == str(report.log)
    assert "compiling kernels" in report.to_json()["phases"]


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    model = unknown_operator()
    onnx.save(model, tmp_path / "model.onnx")
    engine = tmp_path / "no folder" / "model.engine"
    with pytest.raises(NodeError, match="Wibble") as caught:
        build_explained(tmp_path / "model.onnx", lambda: model, "tensorrt-rtx", BuildOptions(), engine=engine)
    assert "log" not in caught.value.remedy


def quantised(folder: Path, **faults: set[str]) -> Path:
    """A Q/DQ graph of another tool, with faults."""
    path = folder / "foreign.onnx"
    save_graph(with_modules(int8_graph(**faults)), path)
    return path


def test_float_layers_of_an_int8_engine_fail_the_build_and_with_allow_partial_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = quantised(tmp_path, skip={"conv2"})
    words = ["build-engine", str(graph), "--int8", "--backend", "tensorrt-rtx"]
    assert run(words) == 1
    failed = capsys.readouterr().err
    assert "asked for int8, but in the engine 'conv2' (conv, net.conv2) is fp16" in failed
    assert "foreign.int8.rtx.engine.failed.log" in failed
    assert {path.name for path in tmp_path.iterdir()} == {"foreign.onnx", "foreign.int8.rtx.engine.failed.log"}

    assert run([*words, "--allow-partial", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["partial"] == ["'conv2' (conv, net.conv2) is fp16"]
    assert report["layers"]["shares"] == {"int8": 0.75, "fp16": 0.25}
    passport = Passport.read(Path(report["passport"]))
    assert passport.partial == ("'conv2' (conv, net.conv2) is fp16",)
    assert passport.command.endswith("--allow-partial")

    assert run([*words, "--allow-partial", "--force"]) == 0
    told = capsys.readouterr()
    assert "note: not int8 in the engine, allowed by --allow-partial: 'conv2' (conv, net.conv2) is fp16" in told.err
    assert f"log: {tmp_path / 'foreign.int8.rtx.engine.log'}" in told.out
    assert run([*words, "--force"]) == 1  # allowed once isn't allowed for ever, from the cache or not


def test_what_the_lint_finds_before_the_build_is_allowed_or_refused_alike(tmp_path: Path) -> None:
    graph = quantised(tmp_path, per_channel_activation={"conv2"})
    with pytest.raises(GraphError, match="silently run in float node 'conv2"):
        build_engine(graph, precision="int8", backend="tensorrt-rtx")
    report = build_engine(graph, precision="int8", backend="tensorrt-rtx", allow_partial=True)
    assert report.partial == ("'conv2' (conv, net.conv2) is fp16",)
    assert any("conv2" in line for line in report.notes)


def test_an_engine_without_one_layer_as_asked_is_refused_even_if_partial(tmp_path: Path) -> None:
    graph = quantised(tmp_path, skip={"conv1", "conv2", "fc1", "fc2"})
    model = onnx.load(graph)
    pair = [
        ("QuantizeLinear", ["input", "s", "z"], "input.q"),
        ("DequantizeLinear", ["input.q", "s", "z"], "input.dq"),
    ]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    for index, (operator, reads, makes) in enumerate(pair):
        model.graph.node.insert(index, helper.make_node(operator, reads, [makes], makes))
    model.graph.node[2].input[0] = "input.dq"  # rounded once, then everything in half
    assert model.graph.node[2].op_type == "Cast"
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    save_graph(model, graph)
    with pytest.raises(AuditError, match="asked for int8"):
        build_engine(graph, precision="int8", backend="tensorrt-rtx", allow_partial=True)


def test_the_command_that_builds_again_has_every_option() -> None:
    options = BuildOptions(
        profiles=parse_profiles(["1:1:1", "8:32:64"]), tf32=True, optimization_level=5, version_compatible=True,
        hardware_compatibility="ampere_plus", weights_stripped=True, allow_partial=True,
    )  # fmt: skip
    command = build_command(Path("a b.onnx"), "fp16", "tensorrt", options)
    assert command == (
        "toolkit build-engine 'a b.onnx' --fp16 --backend tensorrt --batch 1:1:1 --batch 8:32:64"
        " --optimization-level 5 --hardware-compatibility ampere-plus --tf32 --version-compatible --weights-stripped"
        " --allow-partial"
    )


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["--weights-stripped"], "tensorrt-rtx doesn't honour --weights-stripped", "--backend tensorrt"),
        (["--optimization-level", "5"], "on the target machine", "--backend tensorrt"),
        (["--version-compatible"], "belongs to the release that built it", "--backend tensorrt"),
        (["--hardware-compatibility", "ampere-plus"], "by --compute-capability", "--backend tensorrt"),
        (["--batch", "8:1:4"], "is not 1 ≤ MIN ≤ OPT ≤ MAX", "1:8:32"),
    ],
)
def test_options_that_rtx_cannot_honour_are_refused_with_the_reason_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], cause: str, remedy: str
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not even read")
    assert run(["build-engine", str(graph), "--backend", "tensorrt-rtx", *words]) == 2
    told = capsys.readouterr().err
    assert cause in told
    assert remedy in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
