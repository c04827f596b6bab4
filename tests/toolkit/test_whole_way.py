"""The whole way, command by command, as a newcomer goes it."""

import json
from pathlib import Path

import pytest
import torch

from engines.passport import Passport
from export.graph import load_graph
from export.models.registry import build
from toolkit.cli import run

FAMILY = {
    "alexnet": ("model.pt", 10),
    "alexnet-2012": ("model.pth", 10),
    "alexnet-single": ("AlexNet.pkl", 2),
    "alexnet-d2l": ("model.pt", 10),
}


def whole_way(*arguments: str) -> None:
    assert run(list(arguments)) == 0


@pytest.mark.parametrize("architecture", FAMILY)
def test_a_bare_state_dict_becomes_fp16_and_int8_engines_without_an_architecture_flag(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint, classes = FAMILY[architecture]
    torch.manual_seed(0)
    torch.save(build(architecture, classes).state_dict(), checkpoint)
    graph = Path(checkpoint).with_suffix(".onnx").name

    whole_way("export", checkpoint, "--max-batch", "8")
    assert architecture in capsys.readouterr().out
    whole_way("verify", checkpoint, graph, "--max-batch", "8", "--json")
    verification = json.loads(capsys.readouterr().out)
    assert verification["passed"] is True
    operators = [node.op_type for node in load_graph(graph).graph.node]
    assert operators.count("LRN") == (2 if architecture == "alexnet-2012" else 0)

    whole_way("calibrate", graph, "--data", "digits", "--images", "32")
    for precision in ("fp16", "int8"):
        whole_way("build-engine", graph, f"--{precision}", "--backend", "tensorrt-rtx")
        engine = Path(graph).with_suffix(f".{precision}.rtx.engine")
        passport = Passport.read(Path(f"{engine}.json"))
        assert engine.stat().st_size == passport.size
        assert passport.layers is not None
        assert passport.layers["shares"] == {precision: 1.0}
        kept = [node.op_type for node in load_graph(Path(graph).with_suffix(f".{precision}.onnx")).graph.node]
        assert kept.count("LRN") == operators.count("LRN")
    whole_way("build-engine", graph, "--int8", "--backend", "onnxruntime")


def test_from_training_to_comparison_on_small_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole_way("train", "--data", "digits", "--input-size", "64", "--epochs", "1", "-o", "model.pt")
    whole_way("export", "model.pt", "--data", "digits", "--max-batch", "8")
    whole_way("calibrate", "model.onnx", "--data", "digits", "--images", "128")
    whole_way("build-engine", "model.onnx", "--fp16", "--backend", "tensorrt-rtx")
    whole_way("build-engine", "model.onnx", "--int8", "--backend", "tensorrt-rtx")
    whole_way("build-engine", "model.onnx", "--int8", "--backend", "onnxruntime")
    capsys.readouterr()
    artifacts = ["model.pt", "model.onnx", "model.int8.onnx", "model.int8.ort.onnx", "model.int8.rtx.engine"]
    whole_way("compare", *artifacts, "--data", "digits", "--batch", "1,8", "--seconds", "0.2", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == artifacts
    exact = rows["model.pt"]["accuracy"]["top1"]["rate"]
    assert exact > 0.8
    assert rows["model.onnx"]["accuracy"]["agreement"]["rate"] == 1.0
    for name in ("model.int8.onnx", "model.int8.ort.onnx"):
        assert abs(rows[name]["accuracy"]["top1"]["rate"] - exact) < 0.02
    if rows["model.int8.rtx.engine"]["failure"]:
        assert "GPU" in rows["model.int8.rtx.engine"]["failure"]["cause"]

    whole_way("predict", "model.int8.ort.onnx", str(_picture_of_a_three(tmp_path)), "--json")
    answer = json.loads(capsys.readouterr().out)
    assert "3" in json.dumps(answer)
    for artifact in (*artifacts, "model.calibration.json", "model.int8.rtx.engine.json"):
        whole_way("inspect", artifact)
        assert artifact.removesuffix(".engine.json") in capsys.readouterr().out


def _picture_of_a_three(folder: Path) -> Path:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = digits.images[list(digits.target).index(3)]
    path = folder / "three.png"
    Image.fromarray((image * 255 / 16).astype("uint8")).save(path)
    return path
