"""Passports: written, read back, found beside an engine, and refused when damaged."""

import json
from pathlib import Path

import pytest

from engines.errors import EngineFormatError, InputError
from engines.files import digest_bytes
from engines.installed import library_version, this_platform
from engines.passport import Passport, find_passport, passport_path
from engines.tensors import TensorSpec
from tests.engines.test_header import rtx_plan
from tests.tiny import METADATA

COMMAND = "toolkit build-engine model.onnx --fp16 --backend tensorrt-rtx"


def engine_in(folder: Path, data: bytes | None = None) -> Path:
    path = folder / "model.fp16.rtx.engine"
    path.write_bytes(rtx_plan() if data is None else data)
    return path


def full_passport(engine: Path) -> Passport:
    return Passport.of(
        engine,
        backend="tensorrt-rtx",
        precision="fp16",
        command=COMMAND,
        versions={"tensorrt_rtx": "1.7.1.116"},
        compute_capabilities=("8.9", "12.0"),
        gpu="NVIDIA H200",
        driver="580.82.07",
        cuda="13.0",
        profiles=({"input": ((1, 3, 16, 16), (8, 3, 16, 16), (32, 3, 16, 16))},),
        inputs=(TensorSpec("input", "float32", ("batch", 3, 16, 16)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 5)),),
        metadata=METADATA,
        sources={"graph": "sha256:1", "weights": "sha256:2"},
        options={"workspace": 1 << 30},
        layers={"source": "plan", "shares": {"fp16": 1.0}, "layers": []},
        partial=("'conv1' (conv) is fp32",),
        log="model.fp16.rtx.engine.log",
    )


def test_a_passport_read_back_equals_the_one_written(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    passport = full_passport(engine).with_measurements(top1=0.97)
    path = passport_path(engine)
    passport.write(path)
    assert path.name == "model.fp16.rtx.engine.json"
    assert Passport.read(path) == passport
    assert find_passport(engine) == passport
    assert json.loads(path.read_text())["metadata"]["labels"] == list(METADATA.labels)


def test_a_passport_from_before_a_field_existed_is_read(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    content = full_passport(engine).to_json()
    for name in ("driver", "cuda", "partial", "log", "calibration"):
        del content[name]
    passport_path(engine).write_text(json.dumps(content))
    passport = Passport.read(passport_path(engine))
    assert (passport.driver, passport.cuda, passport.partial, passport.log) == (None, None, (), None)
    assert passport.gpu == "NVIDIA H200"


def test_it_describes_the_file_as_it_is(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    passport = full_passport(engine)
    assert passport.digest == digest_bytes(engine.read_bytes())
    assert passport.size == engine.stat().st_size
    assert passport.engine == engine.name
    assert passport.platform == this_platform()
    assert passport.created.endswith("+00:00")


def test_measurements_are_added_and_replaced_by_name(tmp_path: Path) -> None:
    passport = full_passport(engine_in(tmp_path)).with_measurements(top1=0.9, latency=0.1).with_measurements(top1=0.8)
    assert passport.measurements == {"top1": 0.8, "latency": 0.1}


def test_an_engine_without_a_passport_has_none(tmp_path: Path) -> None:
    assert find_passport(engine_in(tmp_path)) is None


@pytest.mark.parametrize("text", ['{"architecture": "yolo"}', "[1, 2]", "null"])
def test_json_of_somebody_else_is_no_passport(tmp_path: Path, text: str) -> None:
    engine = engine_in(tmp_path)
    passport_path(engine).write_text(text)
    assert find_passport(engine) is None
    with pytest.raises(EngineFormatError, match="not a passport"):
        Passport.read(passport_path(engine))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_passport_is_refused(tmp_path: Path, keep: float) -> None:
    engine = engine_in(tmp_path)
    path = passport_path(engine)
    full_passport(engine).write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(EngineFormatError, match="damaged JSON"):
        find_passport(engine)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "many"),
        ("size", -1),
        ("size", 10**400),
        ("size", float("inf")),
        ("inputs", [{"name": "x"}]),
        ("metadata", {"labels": 3}),
        ("profiles", 7),
        ("digest", None),
        ("partial", 3),
    ],
)
def test_a_passport_with_a_damaged_field_is_refused(tmp_path: Path, key: str, value: object) -> None:
    engine = engine_in(tmp_path)
    path = passport_path(engine)
    content = full_passport(engine).to_json()
    if value is None:
        del content[key]
    else:
        content[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(EngineFormatError, match="passport is damaged") as caught:
        Passport.read(path)
    assert caught.value.remedy.endswith(f"rebuild it: {COMMAND} --force")


def test_a_passport_of_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    passport_path(engine).write_text(json.dumps({**full_passport(engine).to_json(), "version": 2}))
    with pytest.raises(EngineFormatError, match="upgrade"):
        find_passport(engine)


def test_reading_a_missing_passport_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Passport.read(tmp_path / "none.json")


def test_a_passport_holds_no_more_than_a_passport(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(EngineFormatError, match="too large"):
        Passport.read(path)


def test_versions_come_from_package_metadata() -> None:
    assert library_version("numpy") is not None
    assert library_version("no-such-library") is None
