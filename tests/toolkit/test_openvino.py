"""One graph in two backends: loaded, predicted with, timed and compared side by side."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import toolkit
from engines.errors import InputError
from engines.passport import Passport, passport_path
from tests.tiny import METADATA, tiny_graph, tiny_images
from toolkit.benchmarking.messages import Contestant
from toolkit.cli import run
from toolkit.comparison.measuring.plan import artifact_of, name_contestants, spelled
from toolkit.steps.bench import bench
from toolkit.steps.compare import compare

if find_spec("openvino") is None:
    pytest.skip("openvino isn't installed", allow_module_level=True)

QUICK = {"batch_sizes": (4,), "seconds": 0.03, "rounds": 2}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture(scope="module")
def data(graph) -> Path:
    path, images = graph.with_name("blobs.npz"), tiny_images(40)
    labels = np.arange(40) % 5
    names = np.array(METADATA.labels)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels, labels=names)
    return path


def test_both_backends_of_one_graph_are_compared_and_told_apart(graph, data):
    result = compare([graph, f"{graph}@openvino"], data, reference=f"{graph}@openvino", **QUICK)
    assert [row.name for row in result.rows] == ["tiny.onnx", "tiny.onnx@openvino"]
    assert [row.opened.info.backend for row in result.rows] == ["onnxruntime", "openvino"]
    assert result.reference == "tiny.onnx@openvino"
    first, second = result.rows
    assert first.accuracy.agreement.rate == 1.0
    assert (first.size, first.digest) == (second.size, second.digest)
    assert first.speeds[4].timing.images_per_second > 4
    assert second.speeds[4].timing.images_per_second > 4
    words = shlex.split(result.command)
    assert words[2:4] == [str(graph), f"{graph}@openvino"]
    assert words[words.index("--reference") + 1] == f"{graph}@openvino", "the command repeats it from any folder"


def test_what_openvino_measured_is_not_written_into_the_passport_of_another_backends_engine(graph, tmp_path):
    engine = tmp_path / "tiny.fp32.onnx"
    engine.write_bytes(graph.read_bytes())
    made = Passport.of(engine, backend="onnxruntime", precision="fp32", command="toolkit build-engine")
    made.write(passport_path(engine))
    bench(f"{engine}@openvino", **QUICK)
    assert Passport.read(passport_path(engine)).measurements == {}
    result = bench([engine, f"{engine}@openvino"], **QUICK)
    written = Passport.read(passport_path(engine)).measurements["speed"]["batches"][0]["images_per_second"]
    assert written == result.row("tiny.fp32.onnx").speeds[4].timing.images_per_second


def test_a_reference_in_another_backend_is_added(graph):
    result = compare([f"{graph}@openvino"], None, reference=graph, **QUICK)
    assert [row.name for row in result.rows] == ["tiny.onnx", "tiny.onnx@openvino"]
    assert result.reference == "tiny.onnx"


def test_the_backend_of_bench_is_for_those_that_name_none(graph, capsys):
    arguments = ["--batch", "2", "--seconds", "0.02", "--rounds", "2", "--json"]
    assert run(["bench", str(graph), f"{graph}@onnxruntime", "--backend", "openvino", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["session"]["backend"] for row in rows] == ["openvino", "onnxruntime"]
    assert [row["name"] for row in rows] == ["tiny.onnx@openvino", "tiny.onnx@onnxruntime"]
    assert rows[0]["session"]["provider"] == "CPU: float32"


def test_predictions_are_those_of_onnx_runtime(graph, tmp_path, capsys):
    picture = tmp_path / "blob.png"
    Image.fromarray(tiny_images(1)[0]).save(picture)
    found = []
    for backend in ("openvino", "onnxruntime"):
        assert run(["predict", str(graph), str(picture), "--backend", backend, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["predictions"][0]["top"])
    assert [top["label"] for top in found[0]] == [top["label"] for top in found[1]]
    assert found[0][0]["probability"] == pytest.approx(found[1][0]["probability"], abs=1e-5)
    with toolkit.load(graph, backend="openvino") as predictor:
        assert predictor.session.info.backend == "openvino"
        assert predictor.classify(picture)[0].label == found[0][0]["label"]


@pytest.mark.parametrize(
    ("artifact", "options", "cause"),
    [
        ("GRAPH@openvinoo", [], "there is no backend 'openvinoo' to run"),
        ("GRAPH@tensorrt", [], "made for the backend 'onnxruntime', not for 'tensorrt'"),
        ("GRAPH@fake", [], "'fake' doesn't open files"),
        ("missing.onnx@openvino", [], "'missing.onnx' does not exist"),
        ("GRAPH", ["--backend", "nothing"], "there is no backend 'nothing'"),
        ("GRAPH@openvino", ["--device", "cuda:0"], "OpenVINO doesn't run on 'cuda:0'"),
        ("DATA@openvino", [], "blobs.npz"),
    ],
)
def test_what_cannot_be_run_so_is_one_line_of_cause_and_one_of_remedy(graph, data, capsys, artifact, options, cause):
    artifact = artifact.replace("GRAPH", str(graph)).replace("DATA", str(data))
    assert run(["bench", artifact, *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "  try: "))]
    assert len(lines) == 2
    assert cause in lines[0]


def test_a_file_whose_name_holds_an_at_is_that_file(graph, tmp_path):
    odd = tmp_path / "tiny.onnx@openvino"
    odd.write_bytes(graph.read_bytes())
    assert artifact_of(str(odd)) == (str(odd), "auto")
    assert artifact_of(f"{odd}@openvino") == (str(odd), "openvino")
    assert artifact_of(str(tmp_path / "a@b.onnx")) == (str(tmp_path / "a@b.onnx"), "auto")
    assert artifact_of("user@host/model.onnx") == ("user@host/model.onnx", "auto")
    assert artifact_of("@openvino") == ("@openvino", "auto")
    with pytest.raises(InputError, match="no backend 'onnx'"):
        artifact_of(f"{graph}@onnx")


def test_names_stay_apart_and_can_be_given_back():
    given = [Contestant("a/m.onnx"), Contestant("b/m.onnx", backend="openvino"), Contestant("b/m.onnx")]
    named = name_contestants([*given, given[1]])
    assert [contestant.name for contestant in named] == [
        "a/m.onnx", "b/m.onnx@openvino", "b/m.onnx", "b/m.onnx@openvino #2",
    ]  # fmt: skip
    assert [artifact_of(spelled(contestant)) for contestant in given] == [
        ("a/m.onnx", "auto"), ("b/m.onnx", "openvino"), ("b/m.onnx", "auto"),
    ]  # fmt: skip
