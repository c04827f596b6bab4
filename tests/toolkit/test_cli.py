"""The command line's frame: help, errors, exit codes, and what is said without each library."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from engines.errors import AuditError, InputError
from tests.tiny import tiny_graph
from toolkit import cli
from toolkit.cli import COMMANDS, run
from toolkit.cli.console import emit_json, progress


def test_help_lists_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert [name for name, line in COMMANDS.items() if f"{name} {line}" not in printed] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_describes_all_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = cli.cli.make_context("toolkit", [name])
    command = cli.cli.get_command(context, name)
    assert command is not None
    assert run([name, "--help"]) == 0
    assert "Usage: toolkit" in capsys.readouterr().out
    bare = [option.name for option in command.params if option.param_type_name == "option" and not option.help]  # type: ignore[attr-defined]
    assert bare == []


def test_a_mistyped_command_gets_the_nearest_one_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["exprot"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: there is no command 'exprot'",
        "  try: did you mean `toolkit export`?",
    ]


def test_an_unknown_option_is_two_lines_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--fp17", "model.pt"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "--fp17" in lines[0]
    assert "toolkit export --help" in lines[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("cause", "remedy"), 2),
        (AuditError("cause", "remedy"), 1),
        (OSError(28, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 2),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    assert run(["doctor"]) == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert 1 <= len(printed.splitlines()) <= 2


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise InputError("cause", "remedy")

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(InputError):
        run(["doctor"], debug=True)


def test_progress_on_no_terminal_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as listener:
        listener.begin("calibrating", 10, "images")
        listener.advance(10, loss=0.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "calibrating ..."
    assert captured.err.splitlines()[-1].startswith("calibrating: ")
    assert "loss 0.5" in captured.err.splitlines()[-1]


def test_a_build_on_no_terminal_tells_its_phase_and_the_time_left_even_when_no_step_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress() as listener:
        monkeypatch.setattr(listener, "interval", 0.0)
        listener.begin("building", 100, "%")
        listener.advance(40, phase="timing kernels")
        listener.advance(0, phase="timing kernels")
        listener.advance(60, phase="")
    _, first, beat, *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"building: 40/100 %, phase timing kernels, \d+ s left", first)
    assert re.fullmatch(r"building: 40/100 %, phase timing kernels, \d+ s left", beat)
    assert re.fullmatch(r"building: \d+\.\d s", last)


def test_json_with_a_nan_is_refused_rather_than_written_as_no_json() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        emit_json({"value": float("nan")})


WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in {missing!r} else self.finder.find_spec(name, path, target)
    def find_distributions(self, *context):
        found = getattr(self.finder, "find_distributions", lambda *_: ())(*context)
        names = {{name.replace("_", "-").lower() for name in {missing!r}}} | {{"pillow", "scikit-learn"}}
        return (d for d in found if d.name and d.name.lower().replace("_", "-") not in names)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from toolkit.cli import main
main({arguments!r})
"""
EXTRAS = {
    "export": {"torch", "onnx", "onnxscript", "onnx_ir"},
    "onnxruntime": {"onnxruntime"},
    "tensorrt": {"tensorrt", "tensorrt_rtx", "tensorrt_libs"},
    "data": {"PIL", "sklearn", "scipy"},
}


def without(missing: set[str], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter that doesn't find the modules ``missing``."""
    code = WITHOUT.format(missing=missing, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("installed", [None, *EXTRAS])
def test_each_extra_alone_gives_help_and_a_working_doctor(installed: str | None, tmp_path: Path) -> None:
    missing = set().union(*(modules for extra, modules in EXTRAS.items() if extra != installed))
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS), ["doctor"]):
        result = without(missing, *arguments, folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["train", "--data", "digits"], "needs the package 'torch'"),
        (["export", "model.pt"], "needs the package 'torch'"),
        (["verify", "model.pt", "model.onnx"], "needs the package 'torch'"),
        (["calibrate", "model.onnx", "--data", "digits"], "needs the package 'onnx'"),
        (["sensitivity", "model.onnx", "--data", "digits"], "needs the package 'onnx'"),
        (["build-engine", "model.onnx", "--fp16"], "no TensorRT builder is installed"),
        (["build-engine", "model.onnx", "--backend", "tensorrt-rtx"], "needs the package 'tensorrt_rtx'"),
        (["predict", "model.onnx", "picture.png"], "needs the package 'onnxruntime'"),
    ],
)
def test_without_libraries_each_command_names_the_package_and_the_pip_line(
    arguments: list[str], cause: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK")
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    result = without(set().union(*EXTRAS.values()), *arguments, folder=tmp_path)
    lines = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert cause in lines[-2]
    assert "pip install 'onnx-tensorrt-toolkit[" in lines[-1]
