"""Real TensorRT for RTX builds on this machine that fail, are interrupted, or meet each other."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import onnx
import pytest

from engines.builders.audit import audit
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import BuiltPlan, build_plan
from engines.errors import (
    BuildError,
    GraphError,
    InputError,
    MissingLibraryError,
    NodeError,
    UnsupportedError,
)
from tests.engines.building import Heard, build, saved
from tests.tiny import tiny_graph

pytest.importorskip("tensorrt_rtx")


def test_a_failed_build_brings_its_log(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build(tmp_path, tiny_graph(), compute_capabilities=("7.5",))
    assert "FP32 GEMM is not supported" in caught.value.reason
    assert caught.value.log.startswith("model.onnx, built with TensorRT for RTX")
    assert caught.value.reason in caught.value.log


def test_a_graph_too_wide_for_turing_is_told_what_turing_takes(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"FP32 .*is not supported") as caught:
        build(tmp_path, tiny_graph(), compute_capabilities=("7.5",))
    assert "--fp16" in caught.value.remedy
    assert any("the library's log:" in note for note in caught.value.__notes__)


def test_an_unsupported_operator_is_named_with_its_node(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.node[1].op_type = "Wibble"
    with pytest.raises(BuildError) as caught:
        build(tmp_path, model)
    assert "node 'relu1' (Wibble) of 'model.onnx' can't be built: Plugin not found" in caught.value.cause
    assert isinstance(caught.value, NodeError)
    assert (caught.value.node, caught.value.operator) == ("relu1", "Wibble")


def test_an_operator_without_a_rule_is_told_in_words(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.node[1].op_type = "Unique"  # the parser's own reason is "false"
    with pytest.raises(NodeError) as caught:
        build(tmp_path, model)
    assert caught.value.cause.startswith("node 'relu1' (Unique) of 'model.onnx' can't be built: ")
    assert "false" not in caught.value.reason.split(" ")[0]


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
