"""A model's folder comes whole or not at all, and replaces only what it may."""

import json
import os
from pathlib import Path

import onnx
import onnxruntime
import pytest

import toolkit
from engines.errors import InputError
from engines.passport import find_passport
from engines.portability import reasons_not_to_run
from tests.tiny import tiny_graph
from tests.toolkit.packaging.engines import config_in, graph_in, plan_in
from tests.toolkit.refusals import Refusal
from toolkit.cli import run
from toolkit.packaging import repository
from toolkit.steps.package import package


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_lies_where_triton_looks_with_its_passport(tmp_path: Path) -> None:
    engine = plan_in(tmp_path)
    made = package(engine, triton=tmp_path / "models")
    assert set(tree(made.folder)) == set(made.files) == {
        "config.pbtxt", "labels.txt", "1/model.plan", "1/model.plan.json",
    }  # fmt: skip
    plan = made.folder / "1" / "model.plan"
    assert plan.read_bytes() == engine.read_bytes()
    passport = find_passport(plan)
    assert passport is not None
    assert passport.engine == "model.plan"
    assert not [reason for reason in reasons_not_to_run(plan) if isinstance(reason, InputError)]


def test_a_large_file_is_linked_and_a_new_build_leaves_the_link_alone(tmp_path: Path) -> None:
    engine = graph_in(tmp_path)
    linked = package(engine, triton=tmp_path / "models").folder / "1" / "model.onnx"
    assert linked.samefile(engine)
    before = linked.read_bytes()
    from engines.files import write_atomically

    write_atomically(engine, b"another")
    assert linked.read_bytes() == before


def test_without_links_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    engine = graph_in(tmp_path)
    copy = package(engine, triton=tmp_path / "models").folder / "1" / "model.onnx"
    assert not copy.samefile(engine)
    assert copy.read_bytes() == engine.read_bytes()


def test_files_of_weights_travel_along(tmp_path: Path) -> None:
    onnx.save(tiny_graph(), tmp_path / "m.onnx", save_as_external_data=True, location="m.weights", size_threshold=100)
    made = package(tmp_path / "m.onnx", triton=tmp_path / "models")
    assert (made.folder / "1" / "m.weights").read_bytes() == (tmp_path / "m.weights").read_bytes()
    onnxruntime.InferenceSession(made.folder / "1" / "model.onnx")
    (tmp_path / "m.weights").unlink()
    with pytest.raises(InputError, match=r"m\.weights"):
        package(tmp_path / "m.onnx", triton=tmp_path / "models", name="other")
    assert not (tmp_path / "models" / "other").exists()


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = package(plan_in(tmp_path), triton=tmp_path / "models").folder
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "1").stat().st_mode & 0o777 == 0o755
    assert (folder / "config.pbtxt").stat().st_mode & 0o777 == 0o644


def test_the_same_file_built_again_replaces_itself(tmp_path: Path) -> None:
    package(plan_in(tmp_path), triton=tmp_path / "models", max_batch=8)
    made = package(plan_in(tmp_path), triton=tmp_path / "models", max_batch=16)
    assert config_in(made.folder).max_batch_size == 16
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "facts", "cause"),
    [
        ("model.int8.engine", {}, "was made from model.fp16.engine"),
        ("model.fp16.engine", {"sources": {"weights": "sha256:other"}}, "was not made from this source"),
    ],
)
def test_a_model_made_from_something_else_stays(
    tmp_path: Path, name: str, facts: dict[str, object], cause: str
) -> None:
    folder = package(plan_in(tmp_path), triton=tmp_path / "models").folder
    before = tree(folder)
    other = plan_in(tmp_path, name, **facts)
    with pytest.raises(InputError, match=cause):
        package(other, triton=tmp_path / "models")
    assert tree(folder) == before
    package(other, triton=tmp_path / "models", force=True)
    assert config_in(folder).parameters["toolkit.file"].string_value == name


def test_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    folder = package(plan_in(tmp_path), triton=tmp_path / "models").folder
    (folder / "2").mkdir()
    (folder / "2" / "model.plan").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"also holds 2/model\.plan"):
        package(plan_in(tmp_path), triton=tmp_path / "models")
    assert (folder / "2" / "model.plan").read_bytes() == b"mine"


def test_a_foreign_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "model"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_bytes(b'name: "model" \xff')
    with pytest.raises(InputError, match="not made from this source"):
        package(plan_in(tmp_path), triton=tmp_path / "models")
    assert tree(folder) == {"config.pbtxt": b'name: "model" \xff'}


@pytest.mark.parametrize("existing", [False, True])
def test_a_fault_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    engine = plan_in(tmp_path)
    if existing:
        package(engine, triton=tmp_path / "models")
    before = tree(tmp_path)
    put = repository._put

    def full(path: Path, content: Path | str) -> None:
        if path.name == "model.plan.json":
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(repository, "_put", full)
    with pytest.raises(InputError, match="No space left on device"):
        package(engine, triton=tmp_path / "models")
    assert tree(tmp_path) == before
    assert (tmp_path / "models").exists() is existing
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = plan_in(tmp_path)

    def interrupt(*_: object, replace: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repository, "_exchange", interrupt)
    with pytest.raises(KeyboardInterrupt):
        package(engine, triton=tmp_path / "models")
    assert sorted(path.name for path in tmp_path.iterdir()) == [engine.name, f"{engine.name}.json"]


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.pbtxt").write_text("old")
    with pytest.raises(FileNotFoundError):
        repository._exchange(tmp_path / "absent", folder, tmp_path / "old", replace=True)
    assert tree(tmp_path) == {"model/config.pbtxt": b"old"}


def test_the_command_shows_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = plan_in(tmp_path)
    assert run(["package", str(engine), "--triton", str(tmp_path / "models"), "--gpus", "0,1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["name"] == "model"
    assert made["config"]["instance_group"][0]["gpus"] == [0, 1]
    assert run(["package", str(engine), "--triton", str(tmp_path / "models")]) == 0
    captured = capsys.readouterr()
    assert "1/model.plan" in captured.out
    assert "note: the plan loads only in a release of Triton" in captured.err
    assert toolkit.package is package


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["missing.onnx", "--triton", "models"], "does not exist"),
        (["model.onnx", "--triton", "no/such/models"], "the folder 'no/such' does not exist"),
        (["model.onnx", "--triton", "model.onnx"], "is a file, not a repository"),
        (["model.onnx"], "Missing option '--triton'"),
        (["model.onnx", "--triton", "models", "--gpus", "a"], "not a list of GPUs"),
        (["model.onnx", "--triton", "models", "--name", "a/b"], "can't be the name"),
        (["cut.onnx", "--triton", "models"], "cut.onnx"),
        (["empty.engine", "--triton", "models"], "is empty"),
        (["model.pt", "--triton", "models"], "is a checkpoint"),
        (["data.calibration.json", "--triton", "models"], "is a calibration table"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    tmp_path: Path, refused: Refusal, arguments: list[str], cause: str
) -> None:
    data = graph_in(tmp_path).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.engine").write_bytes(b"")
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "data.calibration.json").write_text("{}")
    assert cause in refused("package", *arguments)
    assert not (tmp_path / "models").exists()
