"""Real TensorRT for RTX builds on this machine: plans, their layers, and every way to fail."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Collection
from pathlib import Path

import onnx
import pytest

from engines.builders.audit import audit
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.rtx_plan import read_rtx_layers
from engines.builders.tensorrt import BuiltPlan, build_plan
from engines.errors import AuditError, BuildError, GraphError, InputError, MissingLibraryError, UnsupportedError
from engines.files import write_atomically
from engines.header import read_header
from engines.tensors import TensorSpec
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


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.steps = 0

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.events.append(f"begin {task} {total}{unit}")

    def advance(self, steps: int = 1, **facts: object) -> None:
        assert steps > 0
        self.steps += steps

    def end(self) -> None:
        self.events.append("end")


def saved(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def build(folder: Path, model: onnx.ModelProto, **options: object) -> BuiltPlan:
    return build_plan(saved(folder, model), "tensorrt-rtx", BuildOptions(**options))  # type: ignore[arg-type]


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


def test_a_compute_capability_that_rtx_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path, tiny_graph(), compute_capabilities=("8.9", "9.0"))
    assert "compute capability 9.0" in caught.value.cause
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.cause


def test_a_graph_too_wide_for_turing_is_told_what_turing_takes(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"FP32 .*is not supported") as caught:
        build(tmp_path, tiny_graph(), compute_capabilities=("7.5",))
    assert "--fp16" in caught.value.remedy
    assert any("the library's log:" in note for note in caught.value.__notes__)


def test_tf32_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert b"tf32=0" in bytes(build(tmp_path, tiny_graph()).data)
    assert b"tf32=1" in bytes(build(tmp_path, tiny_graph(), tf32=True).data)


def test_an_unsupported_operator_is_named_with_its_node(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.node[1].op_type = "Wibble"
    with pytest.raises(BuildError) as caught:
        build(tmp_path, model)
    assert "node 'relu1' (Wibble) of 'model.onnx' can't be built: Plugin not found" in caught.value.cause


def test_mixed_types_are_named_with_node_operator_and_reason(tmp_path: Path) -> None:
    model = tiny_graph()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype("float16")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "conv1.weight"))
    with pytest.raises(BuildError) as caught:
        build(tmp_path, model)
    assert "node 'conv1' (Conv)" in caught.value.cause
    assert "`input` type is Float but `kernel` is of type Half" in caught.value.cause
    assert "cudaError" not in caught.value.cause


@pytest.mark.parametrize("data", [b"", b"garbage" * 20, tiny_graph().SerializeToString()[:9000]], ids=len)
def test_what_is_no_whole_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(GraphError, match=r"model\.onnx"):
        build_plan(path, "tensorrt-rtx")


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert build_plan(path, "tensorrt-rtx").layers.shares() == {"fp32": 1.0}
    (tmp_path / "model.data").unlink()
    with pytest.raises(GraphError, match=r"keeps its weights in 'model\.data', which is missing"):
        build_plan(path, "tensorrt-rtx")


def test_a_missing_file_a_folder_and_an_unknown_backend_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        build_plan(tmp_path / "none.onnx", "tensorrt-rtx")
    with pytest.raises(InputError, match="is a folder"):
        build_plan(tmp_path, "tensorrt-rtx")
    with pytest.raises(UnsupportedError, match="builds no TensorRT plans"):
        build_plan(saved(tmp_path, tiny_graph()), "onnxruntime")


def test_a_library_that_is_not_installed_is_named_with_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingLibraryError, match=r"onnx-tensorrt-toolkit\[tensorrt-rtx\]"):
        build_plan(saved(tmp_path, tiny_graph()), "tensorrt-rtx")


def test_profiles_that_do_not_fit_are_refused_before_the_build(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(InputError, match="no dimension 'height'"):
        build_plan(
            saved(tmp_path, tiny_graph()),
            "tensorrt-rtx",
            BuildOptions(profiles=parse_profiles(["batch=1:2:4,height=16"])),
            progress=heard,
        )
    assert heard.steps == 0
    assert heard.events[-1] == "end"


def test_progress_grows_to_a_hundred_per_cent(tmp_path: Path) -> None:
    heard = Heard()
    build_plan(saved(tmp_path, tiny_graph()), "tensorrt-rtx", progress=heard)
    assert heard.events == ["begin building with TensorRT for RTX 100%", "end"]
    assert heard.steps == 100


def test_a_listener_that_fails_stops_the_build_with_its_own_error(tmp_path: Path) -> None:
    class Failing(Heard):
        def advance(self, steps: int = 1, **facts: object) -> None:
            raise ZeroDivisionError("the listener's own")

    path = saved(tmp_path, tiny_graph())
    with pytest.raises(ZeroDivisionError, match="the listener's own"):
        build_plan(path, "tensorrt-rtx", progress=Failing())
    audit(build_plan(path, "tensorrt-rtx").layers, "fp32")  # and the library still builds


def test_builds_may_run_in_several_threads(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_graph())
    plans: list[BuiltPlan] = []
    threads = [threading.Thread(target=lambda: plans.append(build_plan(path, "tensorrt-rtx"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [plan.layers.shares() for plan in plans] == [{"fp32": 1.0}] * 2


INTERRUPTED = """
    import os, signal, sys, threading
    from pathlib import Path
    from engines.builders.tensorrt import build_plan
    from engines.progress import QUIET

    class Interrupting:
        begun = False
        def begin(self, *arguments): pass
        def end(self): pass
        def advance(self, steps=1, **facts):
            if not self.begun:
                self.begun = True
                os.kill(os.getpid(), signal.SIGINT)

    path = Path(sys.argv[1])
    try:
        build_plan(path, "tensorrt-rtx", progress=Interrupting())
    except KeyboardInterrupt:
        print("interrupted", threading.active_count())
    print("built", build_plan(path, "tensorrt-rtx").layers.shares())
    build_plan(path, "tensorrt-rtx", progress=Interrupting())
"""


def test_ctrl_c_cancels_a_build_and_leaves_nothing_running(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    result = subprocess.run(
        [sys.executable, str(script), str(saved(tmp_path, tiny_graph(lrn=True)))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout.splitlines() == ["interrupted 1", "built {'fp32': 1.0}"], result.stderr
    assert result.returncode == -signal.SIGINT
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "FATAL" not in result.stderr
