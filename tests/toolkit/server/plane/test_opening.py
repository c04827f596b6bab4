"""Which file is served under which name."""

from pathlib import Path

import pytest

import toolkit
from engines.errors import InputError
from engines.sessions.base import Session
from engines.sessions.onnxruntime import OnnxRuntimeSession
from tests.toolkit.server.plane.models import write
from toolkit.server.plane.opening import Origin, sources_of
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.settings import ModelSettings, Source


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


def test_threads_of_a_served_model_never_spin(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    with Origin.of(Source("tiny", path), ModelSettings()).open("cpu") as session:
        assert spinning(session) == ("0", "")


@pytest.mark.parametrize(
    ("spin", "found"), [(None, ("", "")), ("always", ("", "")), ("running", ("", "1")), ("never", ("0", ""))]
)
def test_spinning_is_a_choice_of_who_opens_a_file(tmp_path: Path, spin: str | None, found: tuple[str, str]) -> None:
    path = write(tmp_path / "tiny.onnx")
    with toolkit.load(path, device="cpu", threads=2, spin=spin) as predictor:
        assert spinning(predictor.session) == found


def test_another_way_to_spin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="always, running, never"):
        toolkit.load(write(tmp_path / "tiny.onnx"), device="cpu", spin="sometimes")


def spinning(session: Session) -> tuple[str, str]:
    """What ONNX Runtime was told of spinning at all, and of stopping after a run; "" where nothing."""
    assert isinstance(session, OnnxRuntimeSession)
    options, found = session._session.get_session_options(), []
    for name in ("session.intra_op.allow_spinning", "session.force_spinning_stop"):
        try:
            found.append(options.get_session_config_entry(name))
        except RuntimeError:  # it was never set
            found.append("")
    return found[0], found[1]


def test_a_plane_needs_models_of_different_names() -> None:
    with pytest.raises(InputError):
        DataPlane([])
