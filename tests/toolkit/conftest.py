"""Fixtures that tests of commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toolkit.hard import Hard, hard_network
from tests.toolkit.refusals import Refusal
from toolkit.cli import run


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Hard:
    """A network of which one layer can't be quantised well; nobody changes this one."""
    return hard_network(tmp_path_factory.mktemp("original"))


@pytest.fixture
def hard(original: Hard, tmp_path: Path) -> Hard:
    """A copy of it, the test's own."""
    return original.copy(tmp_path)


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
