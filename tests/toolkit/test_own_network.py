"""A network of one's own, from its file to INT8: export, verify, calibrate, build, compare, predict."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import toolkit
from engines.errors import CheckpointError, InputError
from engines.preprocess import Preprocess
from export.checkpoint import load_checkpoint
from tests.export.sources.networks import code_in, network, program, script
from toolkit.cli import run
from toolkit.data import open_dataset
from toolkit.inspection.checkpoint import inspect_checkpoint
from toolkit.steps.export import ExportReport

LABELS = "0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def spec(folder: Path) -> str:
    torch.save(network(width=2, classes=10).state_dict(), folder / "model.pt")
    return f"{code_in(folder)}:Net(width=2)"


@pytest.fixture(scope="module")
def report(folder: Path, spec: str) -> ExportReport:
    describe = toolkit.Description(input_size=12, mean=(0.5,), std=(0.5,), resize="stretch", labels=tuple(LABELS))
    return toolkit.export(folder / "model.pt", model=spec, describe=describe, max_batch=2)


def test_the_graph_says_what_was_said_of_the_network(report: ExportReport) -> None:
    assert report.verification is not None
    assert report.verification.passed
    assert report.metadata.preprocess.mean == (0.5,)
    assert report.metadata.labels[9] == "9"
    assert report.metadata.architecture == "net.py:Net(width=2)"


def test_verifying_takes_labels_and_size_from_the_graph(
    report: ExportReport, folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(folder / "model.pt"), str(report.path), "--max-batch", "2"]
    assert run([*command, "--model", spec]) == 0
    assert "verified" in capsys.readouterr().out
    assert run(command) == 2
    assert "--model" in capsys.readouterr().err


def test_the_checkpoint_predicts_with_the_metadata_of_the_graph_beside_it(
    report: ExportReport, folder: Path, spec: str
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    with (
        toolkit.load(folder / "model.pt", model=spec, device="cpu") as checkpoint,
        toolkit.load(report.path) as graph,
    ):
        ours, theirs = (one.classify([image])[0].top[0] for one in (checkpoint, graph))
    assert ours.label == theirs.label
    assert abs(ours.probability - theirs.probability) < 1e-5
    with pytest.raises(CheckpointError, match="--model"):
        toolkit.load(folder / "model.pt")


def test_it_goes_the_whole_way_to_int8_and_is_compared_in_processes_of_their_own(
    report: ExportReport, folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", str(report.path), "--data", "digits", "--images", "16"]) == 0
    assert run(["build-engine", str(report.path), "--int8", "--backend", "onnxruntime", "--data", "digits"]) == 0
    capsys.readouterr()
    engine = next(path for path in folder.glob("*.onnx") if "int8" in path.name)
    code = run([
        "compare", str(folder / "model.pt"), str(report.path), str(engine), "--data", "digits", "--model", spec,
        "--images", "24", "--batch", "1", "--seconds", "0.01", "--rounds", "2", "--launches", "1", "--json",
    ])  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    rows = record["rows"]
    assert len(rows) == 3
    assert all(row["accuracy"]["top1"]["total"] == 24 for row in rows)
    assert rows[1]["accuracy"]["agreement"]["count"] == 24, "the graph answers as the checkpoint does"
    assert "--model" in record["command"]


def test_inspect_shows_the_layers_of_own_code_and_the_header_of_safetensors(
    report: ExportReport, folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    state = network(width=2, classes=10).state_dict()
    # The graph beside it was exported from these weights, whatever file they are in.
    save_file(state, folder / "model.safetensors", metadata={"author": "someone"})
    assert run(["inspect", str(folder / "model.safetensors"), "--model", spec]) == 0
    out = capsys.readouterr().out
    assert "header: author" in out
    assert "features.0.0" in out
    assert "net.py:Net(width=2)" in out


def test_a_program_is_exported_without_any_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = program(network(), folder / "program.pt2")
    assert run(["export", str(path), "--max-batch", "2", "--labels", "a,b,c,d,e"]) == 0
    assert "verified" in capsys.readouterr().out
    assert run(["verify", str(path), str(folder / "program.onnx"), "--max-batch", "2"]) == 0
    assert run(["inspect", str(path)]) == 0
    assert "Net" in capsys.readouterr().out
    assert "known" not in capsys.readouterr().out
    values = [
        inspect_checkpoint(made).value for made in (path, script(network(), folder / "script.ts", traced=False))
    ]
    # The convolution: 4 kernels of 9 at 12×12 (224×224) places. The head: 4 · 5 · 5 features for 5 classes.
    assert [value["macs"] for value in values] == [4 * 9 * size**2 + 100 * 5 for size in (12, 224)]
    assert [value["parameters"] for value in values] == [4 * 9 + 4 + 2 * 4 + 100 * 5 + 5] * 2
    with toolkit.load(path, device="cpu") as predictor:
        assert predictor.labels == ("a", "b", "c", "d", "e")


def test_an_ensemble_is_exported_and_verified_against_all_of_its_members(
    folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for seed in (1, 2):
        paths.append(str(folder / f"member{seed}.pt"))
        torch.save(network(width=2, classes=10, seed=seed).state_dict(), paths[-1])
    said = ["--model", spec]
    assert run(["export", *paths, *said, "--input-size", "12"]) == 2
    assert "--ensemble" in capsys.readouterr().err
    graph = str(folder / "both.onnx")
    assert run(["export", *paths, *said, "--input-size", "12", "--ensemble", "-o", graph, "--max-batch", "2"]) == 0
    assert run(["verify", *paths, graph, *said, "--max-batch", "2"]) == 0


def test_a_factory_that_brings_its_weights_needs_no_file(
    folder: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export",
        "--model",
        f"{spec.split(':', maxsplit=1)[0]}:Net(num_classes=2)",
        "--input-size",
        "12",
        "--max-batch",
        "2",
    ]
    assert run(words) == 2
    assert "--output" in capsys.readouterr().err
    assert run([*words, "-o", str(folder / "fresh.onnx")]) == 0
    with pytest.raises(InputError, match="says itself what it is"):
        toolkit.export(program(network(), folder / "p.pt2"), model=spec)


def test_bare_weights_beside_no_graph_say_once_what_isnt_known(
    spec: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(network(width=2, classes=10).state_dict(), tmp_path / "alone.pt")
    for _ in range(2):
        toolkit.load(tmp_path / "alone.pt", model=spec, device="cpu").close()
    (said,) = caplog.messages
    assert "labels and preprocessing aren't known: class 0 to class 9 and 224×224×1" in said
    describe = toolkit.Description(input_size=12, mean=(0.5,), std=(0.5,), labels=tuple(LABELS))
    assert not load_checkpoint(tmp_path / "alone.pt", model=spec, describe=describe).notes
    partly = toolkit.Description(input_size=12, mean=(0.5,), std=(0.5,))
    (said,) = load_checkpoint(tmp_path / "alone.pt", model=spec, describe=partly).notes
    assert said.startswith("labels aren't known: class 0 to class 9 are taken")


def test_a_comparison_says_of_bare_weights_what_isnt_known(spec: str, tmp_path: Path) -> None:
    torch.save(network(width=2, classes=10).state_dict(), tmp_path / "alone.pt")
    found = toolkit.compare(
        [tmp_path / "alone.pt"], "digits", model=spec, images=4, batch_sizes=(1,), seconds=0.01, rounds=1, launches=1
    )
    assert any("labels and preprocessing aren't known" in note for note in found.rows[0].notes)


def test_the_data_set_and_the_network_agree_on_pictures(report: ExportReport) -> None:
    assert report.metadata.preprocess == Preprocess(12, 12, 1, "stretch", mean=(0.5,), std=(0.5,))
    assert len(open_dataset("digits").labels) == len(report.metadata.labels)
