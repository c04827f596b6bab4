"""``toolkit.bisect`` and ``toolkit bisect``: where two graphs of one network part."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import toolkit
from calibration.collect import collect
from calibration.qdq import quantise
from engines.errors import DataError, GraphError, InputError
from export.graph import load_graph, read_metadata, save_graph, write_metadata
from export.precision import to_half
from tests.tiny import PREPROCESS
from tests.toolkit.hard import Hard
from tests.toolkit.refusals import Refusal
from toolkit.cli import run
from toolkit.steps.bisect import bisect


def scaled(hard: Hard, name: str, typing: str = "fp16") -> Path:
    """A typed graph of the network with one weight 5 % too large."""
    model = load_graph(hard.graph)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), name))
    images = PREPROCESS.batch(np.asarray(hard.data.train.images)[:60])
    typed = to_half(model, "fp16") if typing == "fp16" else quantise(model, collect(model, [images]).table("minmax"))
    path = hard.graph.with_name(f"wrong.{typing}.onnx")
    save_graph(typed, path)
    return path


def half(hard: Hard) -> Path:
    path = hard.graph.with_name("model.fp16.onnx")
    save_graph(to_half(load_graph(hard.graph), "fp16"), path)
    return path


def test_the_command_names_the_module_and_the_layer_to_keep_and_exits_with_1(
    hard: Hard, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bisect", str(hard.graph), str(scaled(hard, "conv2.weight")), "--data", str(hard.archive())]
    assert run([*arguments, "--images", "40"]) == 1
    out = capsys.readouterr().out
    assert "they part at features.conv2 (conv2): its weights are multiplied by 1.050" in out
    assert "with conv2 as in A:" in out
    named = [line.split()[1] for line in out.splitlines() if "OVER:" in line]
    assert named == ["conv2"]
    assert out.splitlines()[1].split() == ["module", "node", "operator", "type", "cumulative", "own", "floor"]


def test_an_honest_graph_exits_with_0(hard: Hard, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bisect", str(hard.graph), str(half(hard)), "--data", str(hard.archive())]) == 0
    assert "the graphs don't part" in capsys.readouterr().out
    assert run(["bisect", str(hard.graph), str(hard.graph), "--data", str(hard.archive()), "--no-mend"]) == 0
    assert "equal" in capsys.readouterr().out


def test_types_that_ruin_the_network_exit_with_0_and_name_what_to_keep(
    hard: Hard, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hard.graph.with_name("model.int8.onnx")
    save_graph(quantise(load_graph(hard.graph), hard.table), path)
    assert run(["bisect", str(hard.graph), str(path), "--data", str(hard.archive())]) == 0
    out = capsys.readouterr().out
    assert "the graphs don't part" in out
    assert "with --keep fc2 as in A:" in out


def test_the_json_and_the_file_say_the_same(hard: Hard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, wrong = tmp_path / "found.json", scaled(hard, "fc1.weight", "int8")
    arguments = ["bisect", str(hard.graph), str(wrong), "--data", str(hard.archive()), "--json", "-o", str(output)]
    assert run(arguments) == 1
    printed, record = json.loads(capsys.readouterr().out), json.loads(output.read_text())
    assert printed["first"] == {
        "node": "fc1",
        "module": "classifier.fc1",
        "reason": printed["first"]["reason"],
    }
    assert {name: record[name] for name in printed} == printed
    assert (record["data"], record["split"], record["images"]) == ("pictures", "train", 64)
    assert run(arguments) == 1  # of the same graph: replaced
    record["digests"][1] = "sha256:other"
    output.write_text(json.dumps(record))
    assert run(arguments) == 2
    assert run([*arguments, "--force"]) == 1


def test_the_function_takes_a_data_set_and_tells_when_it_is_small(hard: Hard) -> None:
    told: list[str] = []
    found = toolkit.bisect(hard.graph, half(hard), hard.data, images=500, batch_size=50, on_note=told.append)
    assert found.images == len(hard.data.train)
    assert told == ["the train split has 180 images, fewer than the 500 asked for"]
    assert found.first is None


@pytest.mark.parametrize("options", [{"images": 0}, {"batch_size": 0}, {"threads": 0}])
def test_impossible_numbers_are_refused(options: dict[str, int], hard: Hard) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        bisect(hard.graph, hard.graph, hard.data, **options)  # type: ignore[arg-type]


def test_what_cannot_be_bisected_is_refused_in_two_lines(hard: Hard, tmp_path: Path, refused: Refusal) -> None:
    data, graph = str(hard.archive()), str(hard.graph)
    cut, text, plan = tmp_path / "cut.onnx", tmp_path / "notes.txt", tmp_path / "model.engine"
    cut.write_bytes(hard.graph.read_bytes()[:5000])
    text.write_text("no graph")
    plan.write_bytes(b"ftrt" + bytes(200))
    assert "cut.onnx" in refused("bisect", graph, str(cut), "--data", data)
    assert "notes.txt" in refused("bisect", graph, str(text), "--data", data)
    assert "typed graph that the engine was built from" in refused("bisect", graph, str(plan), "--data", data)
    assert "table" in refused("bisect", str(hard.beside), graph, "--data", data)
    assert "nowhere" in refused("bisect", graph, str(tmp_path / "nowhere.onnx"), "--data", data)
    assert "nowhere" in refused("bisect", graph, graph, "--data", str(tmp_path / "nowhere"))
    assert "does not exist" in refused("bisect", graph, graph, "--data", data, "-o", str(tmp_path / "no" / "a.json"))
    assert "BF16" in refused("bisect", graph, bf16(hard), "--data", data)


def bf16(hard: Hard) -> str:
    path = hard.graph.with_name("model.bf16.onnx")
    save_graph(to_half(load_graph(hard.graph), "bf16"), path)
    return str(path)


def test_graphs_without_preprocessing_or_with_two_kinds_of_it_are_refused(hard: Hard) -> None:
    model = load_graph(hard.graph)
    metadata = read_metadata(model)
    assert metadata is not None
    other = hard.graph.with_name("other.onnx")
    write_metadata(model, replace(metadata, pictures=replace(metadata.preprocess, mean=(0.1, 0.1, 0.1))))
    save_graph(model, other)
    with pytest.raises(GraphError, match="in two ways"):
        bisect(hard.graph, other, hard.data)
    bare = onnx.load(hard.graph)
    del bare.metadata_props[:]
    onnx.save(bare, other)
    assert bisect(hard.graph, other, hard.data).first is None
    with pytest.raises(GraphError, match="doesn't say how its images are preprocessed"):
        bisect(other, other, hard.data)
    with pytest.raises(DataError):
        bisect(hard.graph, hard.graph, str(hard.graph.parent / "nothing"))


def test_a_path_object_is_a_folder_even_if_it_is_called_digits(
    hard: Hard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'digits' does not exist"):
        bisect(hard.graph, hard.graph, Path("digits"))
