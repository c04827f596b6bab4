"""Which file is served under which name."""

from pathlib import Path

import pytest

from engines.errors import InputError
from tests.toolkit.server.plane.models import write
from toolkit.server.plane.opening import sources_of
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.settings import Source


def test_a_model_is_called_as_its_file_up_to_the_first_dot_or_as_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.fp16.engine", "b.onnx", "x=y.onnx"):
        Path(name).write_text("")
    assert sources_of(["model.fp16.engine", "second=b.onnx", "third=x=y.onnx", "./b.onnx"]) == (
        Source("model", Path("model.fp16.engine")),
        Source("second", Path("b.onnx")),
        Source("third", Path("x=y.onnx")),
        Source("b", Path("b.onnx")),
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "nothing to serve"),
        (["gone.onnx"], "'gone.onnx' does not exist"),
        (["a=gone.onnx"], "'gone.onnx' does not exist"),
        (["."], "is a folder"),
        (["a.onnx", "a.fp16.onnx"], "two models would be called 'a'"),
        (["b=a.onnx", "b=a.fp16.onnx"], "two models would be called 'b'"),
        (["my model.onnx"], "'my model' can't be a model's name"),
        (["x/y=a.onnx"], "'x/y' can't be a model's name"),
        (["=a.onnx"], "'' can't be a model's name"),
        ([".hidden.onnx"], "'' can't be a model's name"),
    ],
)
def test_names_and_files_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "a.fp16.onnx", "my model.onnx", ".hidden.onnx"):
        Path(name).write_text("")
    with pytest.raises(InputError) as error:
        sources_of(given)
    assert says in error.value.cause
    assert error.value.remedy


def test_all_models_are_opened_or_none(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.onnx"), tmp_path / "bad.onnx"
    bad.write_text("no graph")
    with pytest.raises(InputError, match=r"bad\.onnx"):
        open_models([Source("good", good), Source("bad", bad)])


def test_a_damaged_passport_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    path.with_name("tiny.onnx.json").write_text('{"format": "onnx-tensorrt-toolkit/passport", "version": 1}')
    with pytest.raises(InputError, match="passport"):
        open_models([Source("tiny", path)])


def test_a_plane_needs_models_of_different_names() -> None:
    with pytest.raises(InputError):
        DataPlane([])
