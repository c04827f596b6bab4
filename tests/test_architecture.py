"""The house: what imports what, what is loaded when, and how large a file may be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("toolkit", "calibration", "export", "engines")
HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "click", "rich", "PIL", "sklearn"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``statement``."""
    report = "sys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    code = f"import sys, json\n{statement}\n{report}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(run.stderr))


@pytest.mark.parametrize(
    "statement", ["import toolkit", "import toolkit.runtime", "import toolkit.runtime.predictor"]
)
def test_importing_the_runtime_loads_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement) & HEAVY == set()


def test_help_loads_click_and_nothing_else() -> None:
    statement = "from toolkit.cli import run\nrun(['--help'])"
    assert loaded_by(statement) & (HEAVY | {"numpy"}) == {"click"}


@pytest.mark.parametrize(
    "module", ["engines.sessions", "engines.builders.tensorrt", "engines.passport", "engines.target"]
)
def test_engines_import_without_any_backend(module: str) -> None:
    assert loaded_by(f"import {module}") & (HEAVY - {"click"}) == set()


@pytest.mark.parametrize("package", ["calibration", "toolkit.data"])
def test_calibration_and_data_never_need_torch(package: str) -> None:
    folder = ROOT.joinpath(*package.split("."))
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
    ]
    assert "torch" not in loaded_by("\n".join(f"import {module}" for module in modules))


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for package in (*PACKAGES, "tests", "benchmarks", "scripts", "examples")
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_every_command_in_the_table_has_a_module_and_the_other_way_round() -> None:
    from toolkit.cli import COMMANDS

    shared = {"__init__", "console", "describe"}
    files = {path.stem for path in (ROOT / "toolkit" / "cli").glob("*.py")} - shared
    assert {name.strip("_").replace("_", "-") for name in files} == set(COMMANDS)


def test_an_application_module_that_shadows_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text("")
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import toolkit"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 1
    assert f"Python finds {tmp_path / 'export.py'}" in run.stderr.splitlines()[-1]
