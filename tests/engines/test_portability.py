"""Reasons not to run an engine, told before a library sees it, with the command that mends them."""

from dataclasses import replace
from pathlib import Path

import pytest

from engines.errors import EngineFormatError, EngineMismatchError, MissingLibraryError, ToolkitError
from engines.passport import Passport, passport_path
from engines.portability import reasons_not_to_run, require_runnable, whole_plan
from tests.engines.test_header import rtx_plan, tensorrt_plan
from tests.engines.test_passport import COMMAND, engine_in, full_passport

HERE = {"compute_capability": "8.9", "installed": "1.7.1.116", "platform": "linux-x86_64"}


def rtx_engine(folder: Path, **facts: object) -> Path:
    engine = engine_in(folder)
    replace(full_passport(engine), **facts).write(passport_path(engine))  # type: ignore[arg-type]
    return engine


def tensorrt_engine(folder: Path, **facts: object) -> Path:
    engine = folder / "model.fp16.engine"
    engine.write_bytes(tensorrt_plan())
    passport = Passport.of(
        engine,
        backend="tensorrt",
        precision="fp16",
        command="toolkit build-engine model.onnx --fp16",
        compute_capabilities=("8.9",),
        platform="linux-x86_64",
    )
    replace(passport, **facts).write(passport_path(engine))  # type: ignore[arg-type]
    return engine


def only(reasons: list[ToolkitError]) -> ToolkitError:
    assert len(reasons) == 1, reasons
    return reasons[0]


def test_an_engine_that_fits_has_no_reasons_against_it(tmp_path: Path) -> None:
    assert reasons_not_to_run(rtx_engine(tmp_path), **HERE) == []  # type: ignore[arg-type]
    require_runnable(rtx_engine(tmp_path), **HERE)


def test_another_release_of_rtx_means_a_rebuild_with_the_very_command(tmp_path: Path) -> None:
    reason = only(reasons_not_to_run(rtx_engine(tmp_path), compute_capability="8.9", installed="1.8.0.20"))
    assert isinstance(reason, EngineMismatchError)
    assert "built by TensorRT for RTX 1.7.1.116, and TensorRT for RTX 1.8.0.20 is installed" in reason.cause
    assert reason.remedy.endswith(COMMAND)


def test_a_gpu_outside_the_list_means_a_rebuild_for_it(tmp_path: Path) -> None:
    reason = only(reasons_not_to_run(rtx_engine(tmp_path), compute_capability="8.6", installed="1.7.1"))
    assert "compute capability 8.9, 12.0, and this GPU has 8.6" in reason.cause
    assert reason.remedy.endswith(f"{COMMAND} --compute-capability 8.6")


@pytest.mark.parametrize("form", ["--compute-capability 8.9 --compute-capability 12.0", "--compute-capability=8.9"])
def test_the_rebuild_command_names_the_new_gpu_only(tmp_path: Path, form: str) -> None:
    engine = rtx_engine(tmp_path, command=f"toolkit build-engine 'my model.onnx' {form} --fp16")
    reason = only(reasons_not_to_run(engine, compute_capability="8.6", installed="1.7.1"))
    assert reason.remedy.endswith("toolkit build-engine 'my model.onnx' --fp16 --compute-capability 8.6")


@pytest.mark.parametrize("here", ["8.0", "8.6", "7.5"])
def test_an_fp8_engine_is_not_for_gpus_without_fp8_whatever_it_lists(tmp_path: Path, here: str) -> None:
    everything = ("8.0", "8.6", "8.9", "12.0", "12.1")
    engine = engine_in(tmp_path, rtx_plan(mask=0x3E))
    facts = {"precision": "fp8", "compute_capabilities": everything}
    replace(full_passport(engine), **facts).write(passport_path(engine))  # type: ignore[arg-type]
    assert reasons_not_to_run(engine, **HERE) == []  # type: ignore[arg-type]
    reason = only(reasons_not_to_run(engine, compute_capability=here, installed="1.7.1"))
    assert f"FP8, which needs compute capability 8.9 or newer; this GPU has {here}" in reason.cause
    assert "--int8 or --fp16" in reason.remedy


def test_a_data_centre_gpu_is_sent_to_tensorrt(tmp_path: Path) -> None:
    reason = only(reasons_not_to_run(rtx_engine(tmp_path), compute_capability="9.0", installed="1.7.1"))
    assert "--backend tensorrt" in reason.remedy
    assert "9.0" not in reason.remedy


def test_the_header_counts_where_there_is_no_passport(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, rtx_plan(mask=0x8))
    assert reasons_not_to_run(engine, **HERE) == []  # type: ignore[arg-type]
    reason = only(reasons_not_to_run(engine, compute_capability="12.0", installed="1.7.1"))
    assert "--backend tensorrt-rtx --compute-capability 12.0" in reason.remedy


def test_a_changed_engine_is_told_from_the_one_its_passport_describes(tmp_path: Path) -> None:
    engine = rtx_engine(tmp_path)
    data = bytearray(engine.read_bytes())
    data[150] ^= 1
    engine.write_bytes(data)
    reason = only(reasons_not_to_run(engine, **HERE))  # type: ignore[arg-type]
    assert isinstance(reason, EngineFormatError)
    assert "digests differ" in reason.cause
    assert reasons_not_to_run(engine, digest=False, **HERE) == []  # type: ignore[arg-type]


def test_a_truncated_tensorrt_engine_shows_by_its_passport(tmp_path: Path) -> None:
    engine = tensorrt_engine(tmp_path)
    engine.write_bytes(engine.read_bytes()[:200])
    reason = reasons_not_to_run(engine, installed="10.13.3.9", platform="linux-x86_64")[0]
    assert isinstance(reason, EngineFormatError)
    assert "has 200 bytes, and its passport says 300" in reason.cause


def test_a_passport_of_another_kind_of_engine_is_refused(tmp_path: Path) -> None:
    engine = rtx_engine(tmp_path, backend="tensorrt")
    assert "its passport is for tensorrt" in reasons_not_to_run(engine, **HERE)[0].cause  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"garbage" * 20, rtx_plan()[:100], b"PK\x03\x04"])
def test_what_is_no_plan_is_rebuilt_with_the_command_of_its_passport(tmp_path: Path, data: bytes) -> None:
    engine = rtx_engine(tmp_path)
    engine.write_bytes(data)
    with pytest.raises(EngineFormatError) as caught:
        whole_plan(engine)
    assert caught.value.remedy.endswith(f": {COMMAND}")
    assert only(reasons_not_to_run(engine)).remedy == caught.value.remedy
    passport_path(engine).write_text("{")
    with pytest.raises(EngineFormatError) as alone:
        whole_plan(engine)
    assert alone.value.cause == caught.value.cause
    assert COMMAND not in alone.value.remedy


def test_a_passport_that_was_written_for_another_engine_is_named(tmp_path: Path) -> None:
    engine = rtx_engine(tmp_path, engine="other.engine", digest="sha256:0", command="toolkit build-engine o.onnx")
    reason = only(reasons_not_to_run(engine, **HERE))  # type: ignore[arg-type]
    assert reason.remedy.endswith("rebuild 'other.engine', whose passport it is: toolkit build-engine o.onnx")


def test_a_command_that_no_shell_reads_is_given_as_it_is(tmp_path: Path) -> None:
    engine = rtx_engine(tmp_path, command="toolkit build-engine 'unfinished")
    reason = only(reasons_not_to_run(engine, compute_capability="8.6", installed="1.7.1"))
    assert reason.remedy == "rebuild it: toolkit build-engine 'unfinished"


def test_garbage_is_the_only_reason_given(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, b"garbage" * 20)
    assert isinstance(only(reasons_not_to_run(engine)), EngineFormatError)
    with pytest.raises(EngineFormatError):
        require_runnable(engine)


def test_a_missing_library_is_named_with_its_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.portability.library_version", lambda _: None)
    reason = only(reasons_not_to_run(rtx_engine(tmp_path), compute_capability="8.9"))
    assert isinstance(reason, MissingLibraryError)
    assert reason.remedy == "pip install 'onnx-tensorrt-toolkit[tensorrt-rtx]'"


@pytest.mark.parametrize("installed", ["10.16.1.11", "10.12.0.1", "11.4.0.106"])
def test_a_tensorrt_plan_runs_on_its_own_version(tmp_path: Path, installed: str) -> None:
    engine = tensorrt_engine(tmp_path)
    assert reasons_not_to_run(engine, installed="10.13.3.9", platform="linux-x86_64") == []
    reason = only(reasons_not_to_run(engine, installed=installed, platform="linux-x86_64"))
    assert f"TensorRT {installed} is installed" in reason.cause


@pytest.mark.parametrize(("installed", "runs"), [("10.16.1.11", True), ("10.12.0.1", False), ("11.4.0.106", False)])
@pytest.mark.parametrize("has_passport", [True, False])
def test_a_version_compatible_plan_runs_on_later_releases(
    tmp_path: Path, installed: str, runs: bool, has_passport: bool
) -> None:
    engine = tensorrt_engine(tmp_path, options={"version_compatible": True})
    if not has_passport:  # only the library can tell whether a foreign plan is compatible
        passport_path(engine).unlink()
    assert (reasons_not_to_run(engine, installed=installed, platform="linux-x86_64") == []) is runs


def test_a_tensorrt_plan_stays_on_its_platform_and_gpu(tmp_path: Path) -> None:
    engine = tensorrt_engine(tmp_path)
    reason = only(reasons_not_to_run(engine, installed="10.13.3.9", platform="linux-aarch64"))
    assert "built on linux-x86_64, and this is linux-aarch64" in reason.cause
    reason = only(
        reasons_not_to_run(engine, installed="10.13.3.9", platform="linux-x86_64", compute_capability="9.0")
    )
    assert reason.remedy == "rebuild it on this machine: toolkit build-engine model.onnx --fp16"


@pytest.mark.parametrize(("capability", "runs"), [("12.0", True), ("8.0", True), ("7.5", False)])
def test_a_hardware_compatible_plan_runs_on_other_gpus(tmp_path: Path, capability: str, runs: bool) -> None:
    engine = tensorrt_engine(tmp_path, options={"hardware_compatibility": "ampere_plus"})
    reasons = reasons_not_to_run(
        engine, installed="10.13.3.9", platform="linux-x86_64", compute_capability=capability
    )
    assert (reasons == []) is runs


def test_a_graph_for_onnx_runtime_is_held_against_its_passport(tmp_path: Path) -> None:
    graph = tmp_path / "model.fp16.onnx"
    graph.write_bytes(b"\x08\x0a:")
    assert reasons_not_to_run(graph) == []
    Passport.of(graph, backend="onnxruntime", precision="fp16", command="toolkit export").write(passport_path(graph))
    assert reasons_not_to_run(graph) == []
    graph.write_bytes(b"\x08\x0b:")
    assert "digests differ" in only(reasons_not_to_run(graph)).cause
