"""Bad input to every command: one line of cause, one of remedy, exit code 2, and nothing half-written."""

from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

from engines.passport import Passport
from export.graph import save_graph
from export.models.registry import build
from tests.tiny import METADATA, tiny_graph, tiny_images
from tests.toolkit.refusals import Refusal
from toolkit.steps.build import build_engine


def whole_checkpoint(path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(4, 3, 3, 3), "fc.weight": torch.zeros(2, 4)}, path)


def test_a_truncated_checkpoint(refused: Refusal, tmp_path: Path) -> None:
    whole_checkpoint(tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data[: len(data) // 2])
    assert "model.pt" in refused("export", "model.pt")


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"<!DOCTYPE html><title>404</title>", b"PK\x03\x04nothing"]
)
def test_a_file_that_is_no_checkpoint(content: bytes, refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert "model.pt" in refused("export", "model.pt")


def test_a_pickled_module_names_the_flag_that_would_load_it(refused: Refusal, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "--trust-pickle" in refused("export", "model.pt")


def test_an_unknown_architecture_says_what_was_found_and_what_is_nearest(refused: Refusal, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build("alexnet", 2).state_dict().items()}
    weights = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    weights["features.3.weight"] = torch.zeros(1).expand(192, 64, 7, 7)
    torch.save({key: value.clone() if value.numel() < 10**6 else value for key, value in weights.items()}, "model.pt")
    printed = refused("export", "model.pt")
    assert "alexnet" in printed
    assert "features.3.weight" in printed
    whole_checkpoint(tmp_path / "other.pt")
    assert "conv.weight" in refused("export", "other.pt")
    assert "alexnet" in refused("export", "other.pt", "--architecture", "alexnett")


def test_an_empty_data_folder(refused: Refusal, tmp_path: Path) -> None:
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    (tmp_path / "images").mkdir()
    assert "images" in refused("train", "--data", "images")
    assert "images" in refused("calibrate", "model.onnx", "--data", "images")
    assert "images" in refused("build-engine", "model.onnx", "--int8", "--data", "images", "--backend", "onnxruntime")
    assert "images" in refused("compare", "model.onnx", "--data", "images")


def test_a_corrupt_jpeg_among_good_ones_is_named(refused: Refusal, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index, pixels in enumerate(tiny_images(6)):
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
    bad = tmp_path / "images" / "dog" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    for command in (["train", "--data", "images"], ["calibrate", "model.onnx", "--data", "images"]):
        assert str(Path("dog", "3.jpg")) in refused(*command)


@pytest.mark.parametrize("command", ["calibrate", "build-engine", "compare", "predict", "inspect", "bench"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_graph(command: str, damage: str, refused: Refusal, tmp_path: Path) -> None:
    data = tiny_graph().SerializeToString()
    content = {"truncated": data[: len(data) // 2], "garbage": b"garbage" * 99, "empty": b""}[damage]
    (tmp_path / "model.onnx").write_bytes(content)
    Image.fromarray(tiny_images(1)[0]).save(tmp_path / "picture.png")
    more = {"calibrate": ["--data", "digits"], "compare": ["--data", "digits"], "predict": ["picture.png"]}
    assert "model.onnx" in refused(command, "model.onnx", *more.get(command, []))


def test_a_graph_of_an_opset_that_nobody_has(refused: Refusal, tmp_path: Path) -> None:
    model = tiny_graph()
    model.opset_import[0].version = 99
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    for command in (["build-engine", "model.onnx"], ["calibrate", "model.onnx", "--data", "digits"]):
        printed = refused(*command)
        assert "opset 99" in printed


def test_a_graph_whose_file_of_weights_is_missing(refused: Refusal, tmp_path: Path) -> None:
    onnx.save(
        tiny_graph(), tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refused("build-engine", "model.onnx")
    assert "weights.bin" in refused("calibrate", "model.onnx", "--data", "digits")


@pytest.mark.parametrize("content", [b"", b"not an engine at all", b"vtrt" + bytes(28), b"ftrt" + bytes(8)])
def test_a_file_that_is_no_engine(content: bytes, refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(content)
    Image.fromarray(tiny_images(1)[0]).save(tmp_path / "picture.png")
    assert "model.engine" in refused("predict", "model.engine", "picture.png")
    assert "model.engine" in refused("inspect", "model.engine")
    assert "model.engine" in refused("bench", "model.engine")


def test_an_engine_for_another_version_gets_the_rebuild_command(refused: Refusal, tmp_path: Path) -> None:
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    report = build_engine("model.onnx", backend="tensorrt-rtx")
    data = bytearray(report.engine.read_bytes())
    data[25] += 1
    report.engine.write_bytes(data)
    old = Passport.read(report.passport)
    Passport.of(report.engine, backend=old.backend, precision=old.precision, command=old.command).write(
        report.passport
    )
    Image.fromarray(tiny_images(1)[0]).save(tmp_path / "picture.png")
    printed = refused("predict", report.engine.name, "picture.png")
    assert "was built by TensorRT for RTX" in printed
    assert "toolkit build-engine model.onnx --fp16 --backend tensorrt-rtx" in printed


def test_a_plan_that_is_not_the_one_of_its_passport_is_refused(refused: Refusal, tmp_path: Path) -> None:
    save_graph(tiny_graph(metadata=METADATA), tmp_path / "model.onnx")
    report = build_engine("model.onnx", backend="tensorrt-rtx")
    data = bytearray(report.engine.read_bytes())
    data[-1] ^= 0xFF
    report.engine.write_bytes(data)
    Image.fromarray(tiny_images(1)[0]).save(tmp_path / "picture.png")
    assert "passport" in refused("predict", report.engine.name, "picture.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "missing.pt"],
        ["verify", "missing.pt", "missing.onnx"],
        ["calibrate", "missing.onnx", "--data", "digits"],
        ["build-engine", "missing.onnx"],
        ["inspect", "missing"],
        ["predict", "missing.onnx", "missing.png"],
        ["bench", "missing.engine"],
        ["compare", "missing.pt", "--data", "digits"],
        ["train", "--data", "missing"],
        ["build-engine"],
    ],
)
def test_what_is_not_there(arguments: list[str], refused: Refusal) -> None:
    assert ("missing" in (printed := refused(*arguments))) or "no .onnx graph" in printed


@pytest.mark.parametrize("command", ["export", "verify", "calibrate", "build-engine", "inspect", "predict", "bench"])
def test_a_folder_where_a_file_belongs(command: str, refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    more = {"calibrate": ["--data", "digits"], "verify": ["folder"], "predict": ["folder"]}
    assert "folder" in refused(command, "folder", *more.get(command, []))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written(refused: Refusal, tmp_path: Path) -> None:
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    build_engine("model.onnx", precision="fp16", backend="onnxruntime")  # so that the typed graph is there already
    assert "can't write '/proc/model.engine'" in refused("build-engine", "model.onnx", "-o", "/proc/model.engine")
