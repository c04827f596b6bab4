"""Real TensorRT for RTX builds on this machine: plans, their layers, profiles, targets, progress and log."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
import pytest

from engines.builders import flavours
from engines.builders.audit import audit
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.rtx_plan import read_rtx_layers
from engines.builders.tensorrt import build_plan
from engines.errors import (
    AuditError,
    BuildError,
    UnsupportedError,
)
from engines.files import write_atomically
from engines.header import read_header
from engines.tensors import TensorSpec
from tests.engines.building import Heard, build, saved
from tests.engines.graphs import BF16, fp8_graph, int8_graph, typed_graph
from tests.tiny import tiny_graph

pytest.importorskip("tensorrt_rtx")

GRAPHS = {
    "fp32": lambda: tiny_graph(lrn=True),
    "fp16": lambda: typed_graph(tiny_graph(lrn=True)),
    "bf16": lambda: typed_graph(tiny_graph(), BF16),
    "int8": int8_graph,
    "fp8": fp8_graph,
}


@pytest.mark.parametrize("precision", GRAPHS)
def test_a_graphs_types_become_the_engines_and_the_audit_agrees(tmp_path: Path, precision: str) -> None:
    plan = build(tmp_path, GRAPHS[precision]())
    assert [
        (layer.label, layer.kind, layer.type) for layer in sorted(plan.layers.heavy, key=lambda it: it.label)
    ] == [
        ("conv1", "conv", precision),
        ("conv2", "conv", precision),
        ("fc1", "matmul", precision),
        ("fc2", "matmul", precision),
    ]
    assert plan.layers.shares() == {precision: 1.0}
    audit(plan.layers, precision)
    for other in GRAPHS.keys() - {precision}:
        with pytest.raises(AuditError, match=f"asked for {other}.*'conv1' \\(conv\\) is {precision}"):
            audit(plan.layers, other)


def test_an_fp32_convolution_in_an_fp16_engine_fails_the_audit_by_name(tmp_path: Path) -> None:
    plan = build(tmp_path, typed_graph(tiny_graph(), keep={"conv2", "relu2"}))
    with pytest.raises(AuditError) as caught:
        audit(plan.layers, "fp16")
    assert caught.value.cause == "asked for fp16, but in the engine 'conv2' (conv) is fp32"
    assert caught.value.exit_code == 1
    audit(plan.layers, "fp16", keep={"conv2"})


def test_a_kept_convolution_that_the_builder_narrows_fails_the_audit_by_name(tmp_path: Path) -> None:
    # Casts right before and after an FP32 convolution make RTX 1.7 run it in half; 1e6 would be infinite there.
    model = tiny_graph()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[2]).copy()
    weight[0, 0, 0, 0] = 1e6
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(weight, "conv2.weight"))
    narrowed = build(tmp_path, typed_graph(model, keep={"conv2"}))
    with pytest.raises(AuditError, match=r"kept wider than fp16 on purpose.*'conv2' \(conv\) is fp16"):
        audit(narrowed.layers, "fp16", keep={"conv2"})
    audit(build(tmp_path, typed_graph(model, keep={"conv2", "relu2"})).layers, "fp16", keep={"conv2"})


@pytest.mark.parametrize("fault", ["wrong_axis", "per_channel_activation", "skip"])
@pytest.mark.parametrize("nodes", [{"conv2"}, {"conv1", "conv2"}], ids=["one", "two"])
def test_misplaced_qdq_that_builds_silently_as_float_fails_the_audit_by_name(
    tmp_path: Path, fault: str, nodes: Collection[str]
) -> None:
    plan = build(tmp_path, int8_graph(**{fault: nodes}))
    with pytest.raises(AuditError) as caught:
        audit(plan.layers, "int8")
    for node in ("conv1", "conv2", "fc1", "fc2"):
        assert (f"'{node}' " in caught.value.cause) is (node in nodes)
    assert "axis 0" in caught.value.remedy
    audit(plan.layers, "int8", keep=nodes)


def test_a_plan_on_disk_tells_the_same_layers_as_the_one_just_built(tmp_path: Path) -> None:
    plan = build(tmp_path, int8_graph())
    path = tmp_path / "model.int8.rtx.engine"
    write_atomically(path, plan.data)
    assert read_rtx_layers(path).heavy == plan.layers.heavy
    header = read_header(path)
    assert header == plan.header
    assert header.version_text == plan.versions["tensorrt_rtx"]


def test_inputs_outputs_and_the_default_profile_are_told(tmp_path: Path) -> None:
    plan = build(tmp_path, tiny_graph())
    assert plan.inputs == (TensorSpec("input", "float32", ("batch", 3, 16, 16)),)
    assert plan.outputs == (TensorSpec("logits", "float32", ("batch", 5)),)
    assert plan.profiles == ({"input": [[1, 3, 16, 16], [8, 3, 16, 16], [32, 3, 16, 16]]},)
    assert plan.seconds > 0


def test_several_profiles_and_a_workspace_build_and_audit(tmp_path: Path) -> None:
    plan = build(tmp_path, typed_graph(tiny_graph()), profiles=parse_profiles(["1:2:4", "8"]), workspace=1 << 28)
    assert [profile["input"] for profile in plan.profiles] == [
        [[1, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]],
        [[8, 3, 16, 16]] * 3,
    ]
    audit(plan.layers, "fp16")
    with pytest.raises(AuditError) as caught:
        audit(plan.layers, "fp32")
    assert caught.value.cause.count("'conv1'") == 1


def test_a_graph_without_dynamic_dimensions_builds_without_a_profile(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert build(tmp_path, model).profiles == ()


@pytest.mark.parametrize("capabilities", [("8.9",), ("8.0", "12.0"), ("7.5", "8.6")])
def test_a_plan_is_built_for_the_compute_capabilities_asked_for(
    tmp_path: Path, capabilities: tuple[str, ...]
) -> None:
    plan = build(tmp_path, typed_graph(tiny_graph()), compute_capabilities=capabilities)
    assert plan.header.compute_capabilities == capabilities


def test_an_fp8_plan_for_every_gpu_claims_some_that_have_no_fp8(tmp_path: Path) -> None:
    """Why FP8 names its targets: where this fails, a newer library's header may tell the truth."""
    assert build(tmp_path, fp8_graph()).header.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    named = build(tmp_path, fp8_graph(), compute_capabilities=("8.9", "12.0", "12.1"))
    assert named.header.compute_capabilities == ("8.9", "12.0", "12.1")
    with pytest.raises(BuildError, match="fp8"):
        build(tmp_path, fp8_graph(), compute_capabilities=("8.6",))


def test_an_fp8_graph_with_a_layer_left_out_fails_the_audit_by_name(tmp_path: Path) -> None:
    plan = build(tmp_path, fp8_graph(skip={"conv2"}))
    with pytest.raises(AuditError, match=r"asked for fp8, but in the engine 'conv2' \(conv\) is fp16") as caught:
        audit(plan.layers, "fp8")
    assert "32 weights" in caught.value.remedy
    audit(plan.layers, "fp8", keep={"conv2"})


def test_several_profiles_for_several_gpus_are_all_built_and_all_audited(tmp_path: Path) -> None:
    profiles = parse_profiles(["1:1:1", "8:32:64"])
    capabilities = ("8.0", "8.9", "12.0")
    plan = build(tmp_path, int8_graph(), profiles=profiles, compute_capabilities=capabilities)
    assert plan.header.compute_capabilities == capabilities
    assert [profile["input"][2][0] for profile in plan.profiles] == [1, 64]
    # Each profile has kernels of its own, and each of them is judged.
    assert len([layer for layer in plan.layers.heavy if layer.label == "conv1"]) == 2
    audit(plan.layers, "int8")
    faulty = build(tmp_path, int8_graph(wrong_axis={"conv2"}), profiles=profiles, compute_capabilities=capabilities)
    with pytest.raises(AuditError, match=r"asked for int8, but in the engine 'conv2' \(conv\) is fp16 \(check"):
        audit(faulty.layers, "int8")
    assert audit(faulty.layers, "int8", allow_partial=True) == ("'conv2' (conv) is fp16",)


def test_the_whole_log_of_a_build_is_told_with_what_was_built_and_where_the_time_went(tmp_path: Path) -> None:
    plan = build(tmp_path, typed_graph(tiny_graph()), workspace=1 << 28)
    first, options, *rest = plan.log.splitlines()
    assert first == f"model.onnx, built with TensorRT for RTX {plan.versions['tensorrt_rtx']}"
    assert options == 'options: {"workspace": 268435456}'
    assert any(line.endswith(" s compiling kernels") for line in rest[: len(plan.phases)])
    assert "Importing initializer: conv1.bias" in plan.log  # the first that the parser says
    assert "[ONNX Layer: fc2]" in plan.log  # the builder's own listing of layers, its last word


@pytest.mark.parametrize("flag", ["STRIP_PLAN", "REFIT_IDENTICAL"])
def test_rtx_cannot_build_what_the_table_of_capabilities_says_it_cannot(
    tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails, a newer library can: then the table may allow it."""
    configure = flavours._configure_rtx

    def asking(trt: Any, config: Any, options: BuildOptions) -> None:
        configure(trt, config, options)
        config.set_flag(getattr(trt.BuilderFlag, flag))

    monkeypatch.setattr(flavours, "_configure_rtx", asking)
    with pytest.raises(BuildError):
        build(tmp_path, tiny_graph())


def test_a_compute_capability_that_rtx_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path, tiny_graph(), compute_capabilities=("8.9", "9.0"))
    assert "compute capability 9.0" in caught.value.cause
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.cause


def test_tf32_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert b"tf32=0" in bytes(build(tmp_path, tiny_graph()).data)
    assert b"tf32=1" in bytes(build(tmp_path, tiny_graph(), tf32=True).data)


def test_progress_grows_to_a_hundred_per_cent_by_phases_in_plain_words(tmp_path: Path) -> None:
    heard = Heard()
    profiles = parse_profiles(["1", "2:4:8"])
    plan = build_plan(saved(tmp_path, tiny_graph()), "tensorrt-rtx", BuildOptions(profiles=profiles), progress=heard)
    assert heard.events == ["begin building with TensorRT for RTX 100%", "end"]
    assert heard.steps == 100
    assert heard.phases[:2] == ["reading the graph", "preparing the network"]
    assert heard.phases[-3:] == ["writing the plan", "reading back the layers", ""]
    assert "compiling kernels, profile 2 of 2" in heard.phases
    # A name that the table of plain words lacks is one that a newer library has brought.
    known = {"reading the graph", "preparing the network", "fusing layers", "choosing kernels", "compiling kernels"}
    known |= {
        "compiling",
        "timing kernels",
        "timing changes of layout",
        "writing the plan",
        "reading back the layers",
    }
    assert set(plan.phases) == known
    assert sum(plan.phases.values()) == pytest.approx(plan.seconds, abs=0.2)
