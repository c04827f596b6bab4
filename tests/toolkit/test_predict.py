import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from PIL import Image

from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.cli import run
from toolkit.steps.predict import predict

Shown = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run(["predict", *map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    paths = [tmp_path / "pictures" / name for name in ("a.png", "b.png", "more/c.png")]
    for path, image in zip(paths, tiny_images(3), strict=True):
        Image.fromarray(image).save(path)
    return paths


def expected(model: Path) -> list[list[int]]:
    (logits,) = onnx.reference.ReferenceEvaluator(str(model)).run(
        None, {"input": PREPROCESS.normalise(tiny_images(3))}
    )
    order: list[list[int]] = np.argsort(-logits, axis=1).tolist()
    return order


def test_pictures_and_folders_are_classified_in_order(model: Path, pictures: list[Path], shown: Shown) -> None:
    code, out, err = shown(model, pictures[2], pictures[0].parent, "--json", "--top", "2")
    value = json.loads(out)
    assert (code, err) == (0, "")
    order = expected(model)
    assert [item["file"] for item in value["predictions"]] == [str(p) for p in (pictures[2], *pictures)]
    found = [[c["index"] for c in item["top"]] for item in value["predictions"]]
    assert found == [order[2][:2], order[0][:2], order[1][:2], order[2][:2]]
    assert value["predictions"][0]["label"] == METADATA.labels[order[2][0]]
    assert value["model"] == str(model)


def test_people_get_a_line_a_picture(model: Path, pictures: list[Path], shown: Shown) -> None:
    code, out, _ = shown(model, *pictures, "--top", "1")
    assert code == 0
    for line, path, order in zip(out.splitlines(), pictures, expected(model), strict=True):
        assert line.startswith(f"{path}: {METADATA.labels[order[0]]} ")
        assert line.endswith("%")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_picture_is_named_and_the_others_are_answered(
    model: Path, pictures: list[Path], shown: Shown, as_json: bool
) -> None:
    pictures[1].write_bytes(pictures[1].read_bytes()[:60])
    code, out, err = shown(model, *pictures, pictures[0].with_name("none.png"), *(["--json"] if as_json else []))
    assert code == 2
    assert str(pictures[1]) in err
    assert "none.png' as an image: no such file" in err
    assert "2 of 4 pictures could not be read" in err
    if as_json:
        items = json.loads(out)["predictions"]
        assert ["error" in item for item in items] == [False, True, False, True]
    else:
        assert [line.split(":")[0] for line in out.splitlines()] == [str(pictures[0]), str(pictures[2])]


def test_what_cannot_be_predicted_is_refused_in_two_lines(model: Path, tmp_path: Path, shown: Shown) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    for arguments in ((model, tmp_path / "empty"), (tmp_path / "bad.onnx", model), (tmp_path / "no.onnx", model)):
        code, out, err = shown(*arguments)
        assert (code, out) == (2, "")
        assert [line.split()[0] for line in err.strip().splitlines()] == ["error:", "try:"]


def test_answers_come_one_by_one(model: Path, pictures: list[Path]) -> None:
    answers = predict(model, pictures, top=1, device="cpu")
    assert next(answers)[0] == pictures[0]
    assert [path for path, _ in answers] == pictures[1:]
