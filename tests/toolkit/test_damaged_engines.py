"""Damaged and foreign engines, cut from a real plan: a cause and a remedy each, and no library ever sees one.

They are tried in another process, in which importing a TensorRT leaves a mark: a plan that reached the library
would show, and so would a crash.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engines.builders.tensorrt import build_plan
from engines.errors import EngineMismatchError, ToolkitError
from engines.files import digest_bytes
from engines.passport import Passport, passport_path
from engines.portability import require_runnable
from engines.target import Gpu
from export.graph import save_graph
from tests.tiny import tiny_graph
from toolkit.cli import run
from toolkit.loading import load
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")

COMMAND = "toolkit build-engine 'my models/net.onnx' --fp16 --backend tensorrt-rtx"
OTHER_COMMAND = "toolkit build-engine other.onnx --int8 --backend tensorrt-rtx"

Change = Callable[[bytes], bytes]


def patched(at: int, new: bytes) -> Change:
    """Overwrites the bytes at an offset."""
    return lambda plan: plan[:at] + new + plan[at + len(new) :]


@dataclass(frozen=True)
class Case:
    """How a plan is spoilt and what is said of it.

    Attributes:
        cause, remedy: what must occur in them.
        change: what becomes of the plan's bytes; None leaves them, or there is no file.
        passport: what becomes of the passport: "own" (of the file before the change), "honest" (of the changed
            file), "other" (of another engine), "garbled".
        shown: the file is described by ``inspect`` too, with the reason in the description.
        alone: without any passport the same is said.
    """

    cause: str
    remedy: str
    change: Change | None = None
    passport: str = "own"
    shown: bool = False
    alone: bool = True


CASES = {
    "truncated": Case("is truncated: ", COMMAND, lambda plan: plan[: len(plan) // 2]),
    "cut within its header": Case("less than a plan's header", COMMAND, lambda plan: plan[:20]),
    "garbage": Case("is not a TensorRT plan", COMMAND, lambda plan: bytes(range(7, 199)) * 40),
    "another version": Case(
        "was built by TensorRT for RTX 1.6.1.", COMMAND, patched(25, b"\x06"), passport="honest", shown=True
    ),
    "another library": Case(
        "needs the package 'tensorrt'", "pip install", patched(0, b"ftrt"), passport="honest", shown=True
    ),
    "zero bytes": Case("is empty", COMMAND, lambda plan: b""),
    "an ONNX graph": Case("is an ONNX graph", COMMAND, lambda plan: tiny_graph().SerializeToString()),
    "trailing bytes": Case("is longer than it should be", COMMAND, lambda plan: plan + b"\0" * 8),
    "one bit": Case("digests differ", COMMAND, lambda plan: patched(3000, bytes([plan[3000] ^ 1]))(plan),
                    shown=True, alone=False),
    "a wrong passport": Case("is a plan for tensorrt-rtx, and its passport is for tensorrt", COMMAND,
                             passport="backend", shown=True, alone=False),
    "a swapped passport": Case("digests differ", f"'other.engine', whose passport it is: {OTHER_COMMAND}",
                               passport="other", shown=True, alone=False),
    "a garbled passport": Case("the passport is damaged", f"{COMMAND} --force", passport="garbled", shown=True,
                               alone=False),
    "a folder": Case("is a folder", "give the path of"),
    "unreadable": Case("can't read", "permissions"),
    "a pipe": Case("is a pipe or a device", "give the path of a file"),
}  # fmt: skip

_CHILD = """
import contextlib, io, json, sys, traceback
sys.path[:] = json.loads(sys.argv[1])
import toolkit
from toolkit.cli import run

def loaded(path):
    try:
        toolkit.load(path).close()
        return 0, "", []
    except toolkit.ToolkitError as error:
        return error.exit_code, "", [f"error: {error.cause}", f"  try: {error.remedy}"]

def commanded(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(words))
    return code, out.getvalue(), err.getvalue().splitlines()

answers = {}
for path in json.loads(sys.argv[2]):
    answers[path] = {
        "load": loaded(path),
        "inspect": commanded("inspect", path, "--json"),
        "bench": commanded("bench", path, "--batch", "1", "--seconds", "0.1"),
    }
heavy = {"tensorrt", "tensorrt_rtx", "cuda", "torch", "onnx", "onnxruntime"}
print(json.dumps({"answers": answers, "imported": sorted({name.partition(".")[0] for name in sys.modules} & heavy)}))
"""


def spoil(path: Path, plan: bytes, case: Case, name: str) -> None:
    """Write the engine of a case, and its passport."""
    if name == "a folder":
        path.mkdir()
        return
    if name == "unreadable":  # for root too, who may read whatever its permissions are
        path.symlink_to(path.name)
        return
    if name == "a pipe":
        os.mkfifo(path)
        return
    data = case.change(plan) if case.change else plan
    path.write_bytes(plan)
    passport = Passport.of(path, backend="tensorrt-rtx", precision="fp16", command=COMMAND)
    path.write_bytes(data)
    kind = "tensorrt" if data[:4] == b"ftrt" else "tensorrt-rtx"
    content = {
        "own": passport,
        "honest": replace(passport, digest=digest_bytes(data), size=len(data), backend=kind),
        "backend": replace(passport, backend="tensorrt"),
        "other": replace(passport, engine="other.engine", digest="sha256:0", command=OTHER_COMMAND),
        "garbled": passport,
    }[case.passport].to_json()
    if case.passport == "garbled":
        content["size"] = "many"
    passport_path(path).write_text(json.dumps(content))


@dataclass(frozen=True)
class Tried:
    """What a process said of every file.

    Attributes:
        answers: by file name and way ("load", "inspect", "bench"): exit code, standard output, lines of error.
        imported: the libraries that were imported in it.
        marks: what was written where a TensorRT was imported, in it or in a process that it started.
    """

    answers: dict[str, dict[str, tuple[int, str, list[str]]]]
    imported: list[str]
    marks: list[str]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    graph = tmp_path_factory.mktemp("graph") / "net.onnx"
    save_graph(tiny_graph(), graph)
    return bytes(build_plan(graph, "tensorrt-rtx").data)


@pytest.fixture(scope="module")
def tried(plan: bytes, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    folder, bait = tmp_path_factory.mktemp("my engines"), tmp_path_factory.mktemp("bait")
    for module in ("tensorrt", "tensorrt_rtx"):
        mark = bait / f"{module} was imported"
        (bait / f"{module}.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('bait')\n")
    files = []
    for name, case in CASES.items():
        files.append(folder / f"{name}.engine")
        spoil(files[-1], plan, case, name)
        if case.alone and case.change:
            files.append(folder / f"{name}, alone.engine")
            files[-1].write_bytes(case.change(plan))
    search = [str(bait), *sys.path]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(search), json.dumps(list(map(str, files)))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    value = json.loads(child.stdout.splitlines()[-1])
    answers = {Path(path).name: answer for path, answer in value["answers"].items()}
    return Tried(answers, value["imported"], sorted(path.name for path in bait.glob("* was imported")))


def lines_of(errors: list[str]) -> tuple[str, str]:
    """Cause and remedy: the last two lines of standard error, before which there is progress at most."""
    assert not any("Traceback" in line for line in errors)
    cause, remedy = errors[-2:]
    assert cause.startswith("error: ")
    assert remedy.startswith("  try: ")
    assert [line for line in errors if line.startswith(("error: ", "  try: "))] == [cause, remedy]
    return cause.removeprefix("error: "), remedy.removeprefix("  try: ")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["load", "bench", "inspect"])
def test_a_spoilt_engine_is_refused_with_cause_and_remedy(name: str, way: str, tried: Tried) -> None:
    case = CASES[name]
    code, out, errors = tried.answers[f"{name}.engine"][way]
    if way == "inspect" and case.shown:
        (reason,) = json.loads(out)["reasons_not_to_run"]
        cause, remedy = reason["cause"], reason["remedy"]
        # A good engine for another machine is described; one that isn't what its passport says is an error too.
        assert code == (2 if case.passport in {"own", "backend", "other", "garbled"} else 0)
        if code:
            assert lines_of(errors) == (cause, remedy)
    else:
        assert (code, out) == (2, "")
        cause, remedy = lines_of(errors)
    assert case.cause in cause
    assert case.remedy in remedy
    assert f"{name}.engine" in cause
    assert "no GPU" not in cause


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone and case.change])
@pytest.mark.parametrize("way", ["load", "bench", "inspect"])
def test_without_a_passport_the_plan_itself_tells(name: str, way: str, tried: Tried) -> None:
    case = CASES[name]
    code, out, errors = tried.answers[f"{name}, alone.engine"][way]
    if way == "inspect" and case.shown:
        (reason,) = json.loads(out)["reasons_not_to_run"]
        cause, remedy = reason["cause"], reason["remedy"]
    else:
        assert code == 2
        cause, remedy = lines_of(errors)
    assert case.cause in cause
    assert remedy


@dataclass(frozen=True)
class Ada:
    """What a session asks of a GPU before its library is loaded; this machine has none."""

    index: int
    name: str = "a GPU"
    compute_capability: str = "8.9"


@pytest.fixture
def for_blackwell(tmp_path: Path) -> Path:
    """An engine really built for compute capability 12.0 alone, with the passport of its build."""
    graph = tmp_path / "my net.onnx"
    save_graph(tiny_graph(), graph)
    return build_engine(graph, backend="tensorrt-rtx", compute_capabilities=["12.0"]).engine


@pytest.mark.parametrize("has_passport", [True, False])
def test_an_engine_for_another_gpu_is_refused_before_its_library_is_loaded(
    has_passport: bool, for_blackwell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        pytest.fail("the library was asked for")

    if not has_passport:
        passport_path(for_blackwell).unlink()
    monkeypatch.setattr("engines.sessions.tensorrt.CudaDevice", Ada)
    monkeypatch.setattr("engines.sessions.tensorrt.require", never)
    with pytest.raises(EngineMismatchError) as caught:
        load(for_blackwell)
    assert "was built for compute capability 12.0, and this GPU has 8.9" in caught.value.cause
    graph = shlex.quote(str(for_blackwell.with_name("my net.onnx")))
    command = f"toolkit build-engine {graph} --fp16" if has_passport else "toolkit build-engine GRAPH.onnx"
    assert caught.value.remedy == f"rebuild it: {command} --backend tensorrt-rtx --compute-capability 8.9"
    for gpus, code in (
        ((Gpu(0, "Ada", "8.9", None),), 1),
        ((Gpu(0, "Ada", "8.9", None), Gpu(1, "B", "12.0", None)), 0),
    ):
        monkeypatch.setattr("toolkit.inspection.plan._gpus_here", lambda found=gpus: found)
        assert run(["inspect", str(for_blackwell), "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["reasons_not_to_run"]) == code


def test_the_rebuild_command_in_a_remedy_really_rebuilds_the_engine(for_blackwell: Path) -> None:
    """As a shell reads it, in whichever way engine or passport is spoilt."""
    engine, passport = for_blackwell, passport_path(for_blackwell)
    whole = engine.read_bytes(), passport.read_bytes()
    spoilt = {
        "half an engine": (whole[0][:1000], whole[1]),
        "another engine": (patched(3000, b"?")(whole[0]), whole[1]),
        "a passport without its size": (whole[0], whole[1].replace(b'"size"', b'"sizes"')),
    }
    for name, (data, facts) in spoilt.items():
        engine.write_bytes(data)
        passport.write_bytes(facts)
        with pytest.raises(ToolkitError) as caught:
            load(engine)
        _, found, command = caught.value.remedy.partition(": toolkit ")
        assert found, name
        assert run(shlex.split(command)) == 0, name
        assert require_runnable(engine) is None, name  # type: ignore[func-returns-value]
        assert Passport.read(passport).compute_capabilities == ("12.0",)


def test_no_library_is_loaded_for_any_of_them(tried: Tried) -> None:
    assert tried.imported == []
    assert tried.marks == []
