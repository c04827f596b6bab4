"""``toolkit.sensitivity`` and ``toolkit sensitivity``: what each layer's quantisation costs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import toolkit
from calibration.provenance import fingerprint, pack
from calibration.qdq import quantise
from calibration.sensitivity import Sensitivity
from calibration.table import CalibrationTable
from engines.errors import DataError, GraphError, InputError, TableError
from engines.sessions import open_session
from export.graph import load_graph, save_graph
from tests.tiny import PREPROCESS, tiny_graph
from tests.toolkit.hard import Hard
from toolkit.cli import run
from toolkit.steps.sensitivity import sensitivity


def test_the_layer_that_ruins_the_network_comes_first_under_both_its_names(hard: Hard) -> None:
    found = toolkit.sensitivity(hard.graph, hard.data, images=100)
    worst = found.worst_first()
    assert (worst[0].node, worst[0].module, worst[0].op) == ("fc2", "classifier.fc2", "Gemm")
    assert worst[0].sqnr_db < 5
    assert worst[1].sqnr_db > 25
    assert worst[0].flips > 20
    assert sum(layer.flips for layer in worst[1:]) <= 2
    assert {layer.node for layer in worst} == {"conv1", "conv2", "fc1", "fc2"}
    assert found.images == 100
    assert found.accuracy_fp32 == 1.0


def test_all_layers_together_cost_what_the_quantised_graph_costs(hard: Hard) -> None:
    count = len(hard.data.train)  # all, so that order doesn't matter
    found = sensitivity(hard.graph, hard.data, images=count)
    graph = hard.graph.with_name("quantised.onnx")
    save_graph(quantise(load_graph(hard.graph), hard.table, "tensorrt", remainder="fp32"), graph)
    with open_session(graph) as session:
        logits = session.run({"input": PREPROCESS.batch(np.asarray(hard.data.train.images))})["logits"]
    assert found.images == count
    assert found.all_quantised.flips == int((logits.argmax(axis=1) != hard.data.train.labels).sum())


def test_a_layer_that_the_table_keeps_is_not_measured(hard: Hard) -> None:
    replace(hard.table, keep=("classifier.fc2",)).write(hard.beside)
    found = sensitivity(hard.graph, hard.data, images=50)
    assert {layer.node for layer in found.layers} == {"conv1", "conv2", "fc1"}
    assert found.all_quantised.sqnr_db > 20


def edited(hard: Hard, **changes: object) -> Path:
    """The table with changes, in another file."""
    path = hard.graph.with_name("edited.json")
    replace(CalibrationTable.read(hard.beside), **changes).write(path)  # type: ignore[arg-type]
    return path


def test_images_that_were_calibrated_on_are_left_out(hard: Hard) -> None:
    pixels = np.asarray(hard.data.train.images)
    seen = pack(fingerprint(PREPROCESS.pixels(image)) for image in pixels[: len(pixels) - 80])
    replace(hard.table, seen=seen, images=len(pixels) - 80).write(hard.beside)
    told: list[str] = []
    assert sensitivity(hard.graph, hard.data, images=256, on_note=told.append).images == 80
    assert told == []
    assert (
        sensitivity(hard.graph, hard.data, images=256, table=edited(hard, seen=""), on_note=told.append).images > 80
    )
    assert "doesn't tell which images" in told[0]


def test_the_output_file_can_be_read_again_and_says_what_it_is_of(hard: Hard, tmp_path: Path) -> None:
    output = tmp_path / "sensitivity.json"
    found = sensitivity(hard.graph, hard.data, images=50, output=output)
    record = json.loads(output.read_text())
    assert Sensitivity.from_json(record) == found
    assert record["table"] == hard.table.digest()
    assert (record["data"], record["split"], record["precision"]) == ("sure", "train", "int8")
    sensitivity(hard.graph, hard.data, images=40, output=output)  # of the same weights: replaced
    record["weights"] = "sha256:other"
    output.write_text(json.dumps(record))
    with pytest.raises(InputError, match="--force"):
        sensitivity(hard.graph, hard.data, images=40, output=output)
    assert sensitivity(hard.graph, hard.data, images=40, output=output, force=True).images == 40


def test_the_command_prints_a_table_worst_first_with_a_line_for_all(
    hard: Hard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sensitivity", str(hard.graph), "--data", str(hard.archive()), "--images", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("What INT8 costs layer by layer, on 60 samples")
    assert lines[1].split() == ["module", "node", "operator", "SQNR", "dB", "label", "flips", "KL", "top-1"]
    assert lines[2].split()[:3] == ["classifier.fc2", "fc2", "Gemm"]
    assert [line.split()[0] for line in lines if line.startswith(("all", "none"))] == ["all", "none"]
    assert "100.00 %" in lines[-1]


def test_the_command_prints_json(hard: Hard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    data = str(hard.archive())
    arguments = ["--data", data, "--images", "60", "--table", str(hard.beside), "--json", "-o", str(output)]
    assert run(["sensitivity", str(hard.graph), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {layer["node"] for layer in printed["layers"]} == {"conv1", "conv2", "fc1", "fc2"}
    assert json.loads(output.read_text())["layers"] == printed["layers"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "give 1 or more"),
        ({"threads": 0}, "give 1 or more"),
        ({"precision": "fp16"}, "quantises no layer"),
        ({"table": "nowhere.json"}, r"nowhere\.json"),
        ({"precision": "fp8"}, r"no 'model\.fp8\.calibration\.json'"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, object], message: str, hard: Hard) -> None:
    with pytest.raises(InputError, match=message) as caught:
        sensitivity(hard.graph, hard.data, **options)  # type: ignore[arg-type]
    assert caught.value.remedy


def test_what_cannot_be_measured_is_refused(hard: Hard) -> None:
    with pytest.raises(DataError, match="does not exist"):
        sensitivity(hard.graph, str(hard.graph.parent / "nothing"))
    with pytest.raises(DataError, match="has no class"):
        sensitivity(hard.graph, replace(hard.data, labels=("cat", "dog", "cow", "hen", "fox", "bee")))
    save_graph(quantise(load_graph(hard.graph), hard.table), hard.graph.with_name("typed.onnx"))
    with pytest.raises(GraphError, match="already"):
        sensitivity(hard.graph.with_name("typed.onnx"), hard.data, table=hard.beside)
    save_graph(tiny_graph(seed=1), hard.graph)
    with pytest.raises(TableError, match="weights"):
        sensitivity(hard.graph, hard.data)
    save_graph(tiny_graph(metadata=None), hard.graph)
    with pytest.raises(GraphError, match="preprocessed"):
        sensitivity(hard.graph, hard.data)
    assert CalibrationTable.read(hard.beside) == hard.table
