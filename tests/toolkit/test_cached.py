"""Builds from the cache: when an engine is taken from it, when not, and that it is judged as if it were new."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.builders.options import BuildOptions
from engines.errors import AuditError, InputError
from engines.files import digest_bytes
from engines.passport import Passport
from engines.store import open_store
from export.graph import load_graph, save_graph
from tests.tiny import METADATA, tiny_graph, tiny_images
from toolkit.building import make
from toolkit.building.cached import BuildCache
from toolkit.building.report import BuildReport
from toolkit.cli import run
from toolkit.steps.build import build_engine

Build = Callable[..., BuildReport]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 40 pictures in 5 classes."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, x_train=tiny_images(40), y_train=np.arange(40) % 5)
    return path


@pytest.fixture
def master(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save_graph(tiny_graph(), path)
    return path


@pytest.fixture
def build(master: Path) -> Build:
    def call(**options: object) -> BuildReport:
        return build_engine(master, **{"precision": "fp16", "backend": "tensorrt-rtx", **options})  # type: ignore[arg-type]

    return call


@pytest.fixture
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, whoever parses a graph or builds a plan fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was made again")

    def forbid() -> None:
        monkeypatch.setattr("export.graph.load_graph", refuse)
        monkeypatch.setattr("toolkit.building.explain.build_plan", refuse)
        monkeypatch.setattr("toolkit.building.graph_engine.open_session", refuse)

    return forbid


@pytest.mark.parametrize(
    ("precision", "backend"),
    [("fp32", "tensorrt-rtx"), ("fp16", "tensorrt-rtx"), ("int8", "tensorrt-rtx"), ("fp8", "tensorrt-rtx"),
     ("fp32", "onnxruntime"), ("int8", "onnxruntime")],
)  # fmt: skip
def test_the_second_build_parses_and_builds_nothing_and_answers_the_same(
    precision: str, backend: str, build: Build, data: Path, nothing_made: Callable[[], None]
) -> None:
    asked = {"precision": precision, "backend": backend}
    first = build(**asked, data=data if precision in {"int8", "fp8"} else None)
    if precision in {"int8", "fp8"}:  # now with the table that lies there
        first = build(**asked)
    before = first.engine.read_bytes(), first.passport.read_bytes(), first.log and first.log.read_bytes()
    nothing_made()
    second = build(**asked)
    assert second.cached
    assert replace(second, cached=first.cached, seconds=first.seconds) == first
    after = second.engine.read_bytes(), second.passport.read_bytes(), second.log and second.log.read_bytes()
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert _without_time(after[1]) == _without_time(before[1])


def _without_time(passport: bytes) -> object:
    return {**json.loads(passport), "created": None}


def test_a_second_process_needs_neither_onnx_nor_the_library(master: Path, build: Build) -> None:
    build()
    code = (
        "import sys; from toolkit.steps.build import build_engine;"
        f"print(build_engine({str(master)!r}, backend='tensorrt-rtx').cached,"
        " {'onnx', 'tensorrt_rtx', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True set()\n"


def test_an_engine_that_is_gone_or_damaged_comes_back(build: Build, nothing_made: Callable[[], None]) -> None:
    first = build()
    content = first.engine.read_bytes()
    nothing_made()
    for damage in (b"", content[:-1], content[:-1] + b"\xee"):
        first.engine.write_bytes(damage)
        assert build().cached
        assert first.engine.read_bytes() == content
    first.engine.unlink()
    first.passport.unlink()
    assert build().cached
    assert first.engine.read_bytes() == content
    assert Passport.read(first.passport).digest


def test_an_engine_under_another_name_comes_from_the_cache_too(
    build: Build, tmp_path: Path, nothing_made: Callable[[], None]
) -> None:
    first = build()
    nothing_made()
    second = build(output=tmp_path / "other.engine")
    assert second.cached
    assert second.engine.read_bytes() == first.engine.read_bytes()
    passport = Passport.read(second.passport)
    assert passport.engine == "other.engine"
    assert "--output" in passport.command


@pytest.mark.parametrize(
    "options",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"batch": ["1:4:8"]}, {"workspace": 64 << 20},
     {"compute_capabilities": ["8.9"]}, {"tf32": True}],
)  # fmt: skip
def test_other_options_make_another_engine(options: dict[str, object], build: Build) -> None:
    build()
    assert not build(**options).cached
    assert build(**options).cached
    assert build().cached


def test_another_graph_table_or_choice_of_layers_makes_another_engine(master: Path, build: Build, data: Path) -> None:
    build(precision="int8", data=data)
    assert build(precision="int8").cached
    kept = build(precision="int8", keep=["fc2"])
    assert not kept.cached
    assert kept.kept == ("fc2",)
    assert build(precision="int8", keep=["fc2"]).kept == ("fc2",)
    table = master.with_name("model.calibration.json")
    ranges = json.loads(table.read_text())
    ranges["keep"] = ["fc1"]
    table.write_text(json.dumps(ranges))
    assert build(precision="int8").kept == ("fc1",)
    save_graph(tiny_graph(seed=1), master)
    assert not build(precision="fp16").cached


def test_a_typed_graph_that_was_changed_or_removed_is_made_again(build: Build) -> None:
    first = build()
    right = first.typed_graph.read_bytes()
    model = load_graph(first.typed_graph)
    model.doc_string = "edited"
    onnx.save(model, first.typed_graph)
    assert build().cached  # typed anew, to the same graph, of which there is an engine
    assert first.typed_graph.read_bytes() == right
    first.typed_graph.unlink()
    assert build().cached
    assert first.typed_graph.read_bytes() == right


def test_weights_in_a_file_beside_the_graph_count(tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    save_graph(tiny_graph(), path, inline_limit=1000)
    weights = next(tmp_path.glob("*.data"))
    assert not build_engine(path, precision="fp32", backend="tensorrt-rtx").cached
    assert build_engine(path, precision="fp32", backend="tensorrt-rtx").cached
    content = bytearray(weights.read_bytes())
    content[:8] = np.float32([0.25, -0.5]).tobytes()
    weights.write_bytes(content)
    assert not build_engine(path, precision="fp32", backend="tensorrt-rtx", force=True).cached


def test_a_damaged_plan_in_the_cache_is_built_again(build: Build) -> None:
    first = build()
    entry = open_store().entries("engines")[0]
    entry.path("plan").write_bytes(first.engine.read_bytes()[:-1] + b"\xee")
    first.engine.unlink()
    assert not build().cached
    assert build().cached


def test_the_audit_judges_an_engine_from_the_cache_again(build: Build) -> None:
    first = build()
    record = open_store().entries("engines")[0].folder / "entry.json"
    text = record.read_text()
    assert '"type": "fp16"' in text
    record.write_text(text.replace('"type": "fp16"', '"type": "fp32"'))
    first.engine.unlink()
    with pytest.raises(AuditError, match="asked for fp16, but in the engine"):
        build()
    assert not first.engine.exists()


@pytest.mark.parametrize("facts", [{}, {"layers": 3}, {"versions": None, "unknown": 1}])
def test_an_entry_of_another_version_is_no_entry(facts: dict[str, object], build: Build) -> None:
    build()
    for entry in open_store().entries():
        record = entry.folder / "entry.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "facts": facts}))
    assert not build().cached
    assert build().cached


def test_an_engine_that_failed_its_audit_is_not_kept(build: Build, master: Path) -> None:
    report = build(backend="onnxruntime")
    claim = next(item for item in load_graph(report.typed_graph).metadata_props if item.key == "toolkit.derived")
    graph = load_graph(master)
    graph.metadata_props.append(claim)
    save_graph(graph, report.typed_graph)
    open_store().clear()
    for _ in range(2):
        with pytest.raises(AuditError, match="fp32"):
            build_engine(report.typed_graph, precision="fp16", backend="tensorrt-rtx")
    assert open_store().entries("engines") == ()


def test_what_was_measured_of_an_engine_stays_in_its_passport(build: Build) -> None:
    first = build()
    Passport.read(first.passport).with_measurements(latency={"p50": 1.0}).write(first.passport)
    build()
    assert Passport.read(first.passport).measurements == {"latency": {"p50": 1.0}}
    first.engine.write_bytes(b"something else")
    Passport.read(first.passport)
    assert build(batch=["1:2:4"], force=True).engine == first.engine
    assert Passport.read(first.passport).measurements == {}


def test_other_sources_are_still_not_replaced_without_force(build: Build, master: Path, tmp_path: Path) -> None:
    build(output=tmp_path / "other.engine")
    save_graph(tiny_graph(seed=1, metadata=METADATA), tmp_path / "second.onnx")
    second = build_engine(tmp_path / "second.onnx", backend="tensorrt-rtx")
    assert not second.cached
    with pytest.raises(InputError, match="not made from this source"):
        build_engine(tmp_path / "second.onnx", backend="tensorrt-rtx", output=tmp_path / "other.engine")


def test_without_the_cache_nothing_is_taken_or_kept(build: Build) -> None:
    build(cache=False)
    assert open_store().entries() == ()
    build()
    assert not build(cache=False).cached


def test_a_cache_that_cannot_be_written_is_a_note(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        report = build()
        assert not report.cached
        assert len(report.notes) == 1
        assert "nothing is kept" in report.notes[0]


def test_the_command_says_that_an_engine_is_from_the_cache(master: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["build-engine", str(master), "--backend", "tensorrt-rtx"]
    assert run(line) == 0
    assert "built in" in capsys.readouterr().out
    assert run(line) == 0
    assert ", from the cache;" in capsys.readouterr().out
    assert run([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cached"] is True
    assert run([*line, "--no-cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cached"] is False


def test_timings_are_kept_where_the_user_names_no_file(tmp_path: Path) -> None:
    asked: list[Path | None] = []
    plan = object()

    def builder(options: BuildOptions) -> object:
        asked.append(options.timing_cache)
        if options.timing_cache == tmp_path / "damaged":
            raise InputError(f"the timing cache '{options.timing_cache}' is damaged", "remove it")
        return plan

    def timed(options: BuildOptions, timing: Path | None) -> object:
        return make._timed(builder, options, timing)  # type: ignore[arg-type]

    own, kept, damaged = tmp_path / "own", tmp_path / "kept", tmp_path / "damaged"
    damaged.write_bytes(b"damaged")
    assert timed(BuildOptions(), None) is plan
    assert timed(BuildOptions(timing_cache=own), kept) is plan
    assert timed(BuildOptions(), kept) is plan
    assert timed(BuildOptions(), damaged) is plan
    assert asked == [None, own, kept, damaged, None]
    assert not damaged.exists()
    with pytest.raises(InputError, match="damaged"):  # the user's own is never removed
        timed(BuildOptions(timing_cache=damaged), kept)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_digest_that_was_begun_is_of_the_file_as_it_is_when_asked_for(enabled: bool, tmp_path: Path) -> None:
    cache, path = BuildCache("onnxruntime", enabled=enabled), tmp_path / "m.onnx"
    path.write_bytes(b"first")
    cache.begin_digest(path)
    assert cache.digest(path) == digest_bytes(b"first")
    cache.begin_digest(path)
    path.write_bytes(b"something else")
    assert cache.digest(path) == digest_bytes(b"something else")
    cache.begin_digest(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match=r"gone\.onnx"):
        cache.digest(tmp_path / "gone.onnx")
