"""``toolkit bisect`` with B in another backend, or an engine."""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from calibration.bisection.bisect import bisect_models
from calibration.bisection.source import Backend
from engines.builders.audit import audit
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.errors import EngineFormatError, EngineMismatchError, InputError, RunError, UnsupportedError
from engines.passport import Passport, find_passport, passport_path
from engines.progress import QUIET
from engines.target import find_gpus
from export.graph import load_graph
from tests.toolkit.hard import Hard
from tests.toolkit.refusals import Refusal
from tests.toolkit.test_bisect import scaled
from toolkit.building.judged import Judged, _built, _opened, judged
from toolkit.building.marked import build_marked, rebuild_options, typed_graph
from toolkit.cli import run

OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino isn't installed")
RTX = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx isn't installed")
NO_GPU = pytest.mark.skipif(bool(find_gpus()[0]), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def engines(original: Hard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RTX engines of the network: FP16, and INT8 with one layer kept."""
    folder = tmp_path_factory.mktemp("engines")
    graph = original.copy(folder).graph
    toolkit.build_engine(graph, precision="fp16", backend="tensorrt-rtx", batch=["2:4:6"], cache=False)
    toolkit.build_engine(graph, precision="int8", backend="tensorrt-rtx", keep=["fc2"], cache=False)
    return folder


@OPENVINO
@pytest.mark.parametrize("typing", ["fp16", "int8"])
def test_a_scaled_layer_in_openvino_is_named_and_an_honest_graph_is_not(
    typing: str, hard: Hard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.json"
    wrong = scaled(hard, "conv2.weight", typing)
    arguments = ["--data", str(hard.archive()), "--images", "40", "-o", str(output), "--force"]
    assert run(["bisect", str(hard.graph), f"{wrong}@openvino", *arguments]) == 1
    out = capsys.readouterr().out
    assert "they part at features.conv2 (conv2): its weights are multiplied by 1.050" in out
    assert "B ran in openvino; tensors marked as outputs may change what it fuses" in out
    assert "without marks are equal" in out
    record = json.loads(output.read_text())
    assert record["judged"] == f"{wrong}@openvino"
    assert record["graphs"] == [str(hard.graph), str(wrong)]
    assert record["elsewhere"]["backend"] == "openvino"
    assert [layer["node"] for layer in record["layers"] if layer["over"]] == ["conv2"]
    assert run(["bisect", str(hard.graph), f"{hard.graph}@openvino", *arguments, "--no-mend"]) == 0
    assert "the graphs don't part" in capsys.readouterr().out


def test_onnx_runtimes_own_kernels_are_a_backend_too(hard: Hard) -> None:
    found = toolkit.bisect(hard.graph, f"{hard.graph}@onnxruntime", hard.data, images=16, threads=1)
    assert found.first is None
    assert found.elsewhere is not None
    assert found.elsewhere.backend == "onnxruntime"
    assert toolkit.bisect(hard.graph, hard.graph, hard.data, images=16).elsewhere is None


def test_what_no_backend_runs_is_refused_before_anything_long(hard: Hard, refused: Refusal) -> None:
    graph, data = str(hard.graph), str(hard.archive())
    assert "made for the backend 'onnxruntime'" in refused("bisect", graph, f"{graph}@tensorrt", "--data", data)
    assert "no backend 'nothing'" in refused("bisect", graph, f"{graph}@nothing", "--data", data)
    assert "not for 'torch'" in refused("bisect", graph, f"{graph}@torch", "--data", data)
    assert "the reference" in refused("bisect", f"{graph}@onnxruntime", graph, "--data", data)
    assert "@onnxruntime" in refused("bisect", graph, graph, "--device", "cuda:0", "--data", data)
    if find_spec("openvino"):
        found = refused("bisect", graph, f"{graph}@openvino", "--device", "cuda:0", "--data", data)
        assert "OpenVINO doesn't run" in found


@RTX
@NO_GPU
def test_an_engine_needs_a_gpu_its_passport_and_its_typed_graph(
    engines: Path, tmp_path: Path, refused: Refusal
) -> None:
    graph, name = str(engines / "model.onnx"), "model.fp16.rtx.engine"
    found = refused("bisect", graph, str(engines / name), "--data", "digits")
    assert "runs on an NVIDIA GPU, and this machine has none" in found
    assert "not for 'openvino'" in refused("bisect", graph, f"{engines / name}@openvino", "--data", "digits")
    alone = tmp_path / name
    shutil.copy(engines / name, alone)
    assert "has no passport beside it" in refused("bisect", graph, str(alone), "--data", "digits")
    shutil.copy(passport_path(engines / name), passport_path(alone))
    assert "the typed graph that" in refused("bisect", graph, str(alone), "--data", "digits")
    shutil.copy(engines / "model.fp16.onnx", tmp_path / "by another name.onnx")
    assert "has none" in refused("bisect", graph, str(alone), "--data", "digits")
    alone.write_bytes(alone.read_bytes()[:5000])
    assert "truncated" in refused("bisect", graph, str(alone), "--data", "digits")


@RTX
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_marked_engine_is_built_with_the_passports_options_and_is_of_its_precision(
    precision: str, engines: Path, original: Hard
) -> None:
    """All but the run itself, which needs a GPU: a bisection's session is opened on what is built here."""
    engine = engines / f"model.{precision}.rtx.engine"
    passport = find_passport(engine)
    assert passport is not None
    graph = typed_graph(engine, passport)
    assert graph.name == f"model.{precision}.onnx"
    notes: list[str] = []
    built = []

    def opened(path: Path) -> AbstractContextManager[Any]:
        built.append(build_marked(path, passport, on_note=notes.append))
        raise RunError("no GPU here", "use one")

    assert passport.metadata is not None
    batches = [passport.metadata.preprocess.normalise(np.asarray(original.data.train.images[:4]))]
    models = [load_graph(engines / "model.onnx"), load_graph(graph)]
    backend = Backend(passport.backend, opened, lambda: _opened(graph, "auto", "cpu", None))
    with pytest.raises(RunError, match="no GPU here"):
        bisect_models(models, batches, ("a", "b"), backend=backend)
    assert models == []
    if not find_gpus()[0]:  # then only the run is missing
        real = replace(backend, open=lambda path: _built(path, passport, "auto", QUIET, notes.append))
        with pytest.raises(UnsupportedError, match="NVIDIA GPU"):
            bisect_models([load_graph(engines / "model.onnx"), load_graph(graph)], batches, ("a", "b"), backend=real)
    (plan,) = built
    assert notes == []
    kept = {f"{way}/fc2" for way in ("run", "own")} if precision == "int8" else set()
    assert audit(plan.layers, precision, keep=kept) == ()
    nodes = {node for layer in plan.layers.heavy for node in layer.nodes}
    assert {f"{way}/{name}" for way in ("run", "own") for name in ("conv2", "fc1", "fc2")} <= nodes
    assert "run/conv1" in nodes, "which both ways share: it reads the images in either"
    names = {spec.name for spec in plan.outputs}
    assert {"run/relu2/out", "own/relu2/out", "run/pool/out"} <= names
    assert "run/conv2/out" not in names
    assert {"input", "fed/relu1", "fed/pool"} <= {spec.name for spec in plan.inputs}
    least, most = (2, 6) if precision == "fp16" else (1, 32)
    shapes = plan.profiles[0]["fed/relu1"]
    assert [shape[0] for shape in shapes] == [least, 4 if precision == "fp16" else 8, most]


def test_batches_are_those_that_the_engine_takes() -> None:
    graph = Path("model.onnx")
    assert Judged(graph).fit(8, 30) == (8, 30)
    assert Judged(graph, batches=((1, 32),)).fit(8, 30) == (8, 30)
    assert Judged(graph, batches=((1, 4),)).fit(8, 30) == (4, 30)
    assert Judged(graph, batches=((16, 32),)).fit(8, 40) == (16, 32)
    assert Judged(graph, batches=((1, 1), (8, 32))).fit(8, 9) == (8, 9)
    assert Judged(graph, batches=((4, 4),)).fit(8, 9) == (4, 8)
    with pytest.raises(InputError, match="--images 16"):
        Judged(graph, batches=((16, 32),)).fit(8, 10)


def test_options_come_back_from_a_passport() -> None:
    options = BuildOptions(
        profiles=parse_profiles(["1:8:16", "batch=2:4:6"]),
        workspace=1 << 30,
        tf32=True,
        optimization_level=3,
        version_compatible=True,
        hardware_compatibility="ampere_plus",
        compute_capabilities=("8.9", "12.0"),
    )
    made = Passport("a.engine", "sha256:0", 1, "tensorrt", "fp16", "", "toolkit build-engine a.onnx")
    written = json.loads(json.dumps(options.to_json()))
    assert rebuild_options(replace(made, options=written)) == options
    more = {**written, "timing_cache": "nowhere/a.cache", "weights_stripped": True, "allow_partial": True}
    assert rebuild_options(replace(made, options=more)) == options
    for damaged in ({"workspace": "much"}, {"profiles": 3}, {"profiles": ["x"]}, {"compute_capabilities": ["y"]}):
        with pytest.raises(EngineFormatError, match="options in the passport") as caught:
            rebuild_options(replace(made, options=damaged))
        assert "toolkit build-engine a.onnx" in caught.value.remedy


def test_a_graph_is_found_by_its_digest_and_a_missing_one_is_told_with_the_command(hard: Hard) -> None:
    engine = hard.graph.with_name("model.engine")
    engine.write_bytes(b"")
    passport = Passport.of(engine, backend="tensorrt", precision="fp32", command="toolkit build-engine model.onnx")
    with pytest.raises(EngineMismatchError, match=r"build again: toolkit build-engine model\.onnx"):
        typed_graph(engine, passport)
    assert judged(hard.graph, on_note=print) == Judged(hard.graph)
