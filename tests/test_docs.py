"""The documentation says what the program does."""

import re
import shlex
from pathlib import Path

import click
import pytest

import toolkit
from toolkit.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def commands_in(text: str) -> list[str]:
    """Every command line in the text's code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).splitlines()
    return [line.split("#")[0].strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?toolkit ", line)]


@pytest.mark.parametrize("line", commands_in(README))
def test_every_command_line_in_the_readme_parses(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command.make_context(name, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE)


@pytest.mark.parametrize("name", re.findall(r"toolkit\.(\w+)\(", README))
def test_every_function_in_the_readme_exists(name: str) -> None:
    assert callable(getattr(toolkit, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_nothing_names_a_path_of_a_machine() -> None:
    folders = ("toolkit", "calibration", "export", "engines", "benchmarks", "scripts", ".ci")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()] + PAGES
    homes = re.compile(rb"(?<![\w.])/(?:home|root|Users|work)/\w")
    named = [path for path in sources if path.suffix != ".pyc" and homes.search(path.read_bytes())]
    assert [str(path.relative_to(ROOT)) for path in named] == []
