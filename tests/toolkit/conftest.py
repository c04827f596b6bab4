"""Fixtures that tests of commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toolkit.refusals import Refusal
from toolkit.cli import run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must be refused; gives cause and remedy, and checks that no file came or changed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert run(list(arguments)) == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith(("error: ", "  try: "))]
        assert [line[:7] for line in lines] == ["error: ", "  try: "]
        assert captured.err.splitlines()[-2:] == lines
        assert "Traceback" not in captured.err
        assert captured.out == ""
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        return "\n".join(lines)

    return call


Shown = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs ``toolkit inspect``; gives its exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["inspect", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
