import json
import struct
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from calibration.table import CalibrationTable, TensorRange
from engines.errors import CheckpointError, EngineFormatError, GraphError, InputError, TableError
from engines.passport import Passport, passport_path
from engines.preprocess import Preprocess
from export.models.registry import build_empty
from tests.tiny import METADATA, tiny_graph
from tests.toolkit.conftest import Shown
from toolkit.inspection.checkpoint import layer_table
from toolkit.inspection.measured import measured_sections
from toolkit.inspection.passport import shares_table
from toolkit.inspection.report import Facts, Table, as_json, short_list, size_text
from toolkit.steps.inspect import inspect


def small_network() -> nn.Module:
    shared = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4, padding=2), shared, nn.Conv2d(8, 16, 3, groups=4, bias=False), shared,
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 7),
    )  # fmt: skip


def test_a_table_of_layers_gives_shapes_parameters_and_multiply_accumulates() -> None:
    rows = {row.name: row for row in layer_table(small_network(), Preprocess(32, 24))}
    assert [(name, row.kind) for name, row in rows.items()] == [
        ("0", "Conv2d"), ("1", "ReLU"), ("2", "Conv2d"), ("4", "AdaptiveAvgPool2d"), ("5", "Flatten"),
        ("6", "Linear"),
    ]  # fmt: skip
    assert rows["0"].output == (8, 8, 6)
    assert rows["0"].parameters == 8 * 3 * 25 + 8
    assert rows["0"].macs == (8 * 8 * 6) * (3 * 25)
    assert rows["2"].output == (16, 6, 4)
    assert rows["2"].parameters == 16 * 2 * 9
    assert rows["2"].macs == (16 * 6 * 4) * (2 * 9)
    assert (rows["6"].parameters, rows["6"].macs) == (64 * 7 + 7, 64 * 7)
    assert rows["1"].macs == rows["4"].macs == rows["5"].parameters == 0


def test_a_layer_that_runs_twice_counts_its_work_twice_and_its_parameters_once() -> None:
    layer = nn.Linear(4, 4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), layer, layer)
    rows = layer_table(network, Preprocess(2, 2))
    assert [(row.parameters, row.macs) for row in rows] == [(0, 0), (52, 48), (20, 32)]


def test_a_transposed_convolution_meets_every_input_with_every_weight() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 6, 4, stride=2, groups=3))
    (row,) = layer_table(network, Preprocess(5, 5))
    assert row.output == (6, 12, 12)
    assert row.macs == 5 * 5 * 3 * (6 // 3) * 16


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("alexnet", 61_100_840, 714_188_480),
        ("alexnet-2012", 60_965_224, 724_406_816),
    ],
)
def test_the_totals_of_the_known_networks_are_the_published_ones(name: str, parameters: int, macs: int) -> None:
    module = build_empty(name, 1000)
    size = 224 if name == "alexnet" else 227
    rows = layer_table(module, Preprocess(size, size))
    assert sum(row.parameters for row in rows) == parameters
    assert sum(row.macs for row in rows) == macs


def test_a_checkpoint_is_shown_with_its_layers_and_totals(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.pt"
    network = small_network()
    torch.save(network, path)
    code, out, err = shown(str(path))
    assert (code, out) == (2, "")
    assert "--trust-pickle" in err
    code, out, _ = shown(str(path), "--trust-pickle", "--json")
    value = json.loads(out)
    assert code == 0
    assert value["kind"] == "checkpoint"
    assert value["size"] == path.stat().st_size
    assert value["parameters"] == sum(p.numel() for p in network.parameters())
    assert value["macs"] == sum(layer["macs"] for layer in value["layers"])
    assert value["layers"][0]["output"] == [8, 56, 56]
    assert len(value["metadata"]["labels"]) == 7
    code, out, _ = shown(str(path), "--trust-pickle")
    assert code == 0
    assert f"{value['parameters']:,}" in out
    assert "8×56×56" in out


def rtx_plan(path: Path, *, size: int | None = None) -> Path:
    body = b"\0" * 200
    header = b"vtrt" + b"\0" * 4 + struct.pack("<QQ", 7, size or 264) + bytes([1, 7, 1, 116]) + b"vtrt"
    path.write_bytes(header + struct.pack("<Q", 0b1000) + b"\0" * 24 + body)
    return path


def test_a_plan_is_shown_from_its_header_without_its_library(tmp_path: Path, shown: Shown) -> None:
    path = rtx_plan(tmp_path / "model.rtx.engine")
    code, out, _ = shown(str(path), "--json")
    value = json.loads(out)
    assert code == 0
    assert value["header"]["kind"] == "tensorrt-rtx"
    assert value["header"]["version"] == "1.7.1.116"
    assert len(value["header"]["compute_capabilities"]) == 1
    assert value["passport"] is None
    code, out, _ = shown(str(path))
    assert code == 0
    assert "TensorRT for RTX 1.7.1.116" in out
    assert "what it was made from is unknown" in out


def test_an_rtx_plan_without_a_passport_tells_its_layer_types_itself(tmp_path: Path, shown: Shown) -> None:
    pytest.importorskip("tensorrt_rtx")
    from engines.builders.tensorrt import build_plan

    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    path = tmp_path / "model.rtx.engine"
    path.write_bytes(build_plan(tmp_path / "model.onnx", "tensorrt-rtx").data)
    layers = [layer for layer in inspect(path).to_json()["layers"]["layers"] if layer["kind"] != "other"]
    assert [(layer["nodes"][0], layer["kind"], layer["type"]) for layer in layers] == [
        ("conv1", "conv", "fp32"), ("conv2", "conv", "fp32"), ("fc1", "matmul", "fp32"), ("fc2", "matmul", "fp32"),
    ]  # fmt: skip
    code, out, _ = shown(str(path))
    assert code == 0
    assert "100% fp32" in out


def passport(path: Path, **facts: Any) -> Passport:
    layers = {
        "source": "plan",
        "layers": [
            {"name": "conv1", "nodes": ["conv1"], "kind": "conv", "type": "fp16"},
            {"name": "fc1", "nodes": ["fc1"], "kind": "matmul", "type": "fp32"},
        ],
    }
    facts = {"metadata": METADATA, "layers": layers, "measurements": {"accuracy": {"top1": 0.975}}} | facts
    return Passport.of(
        path, backend="tensorrt-rtx", precision="fp16", command="toolkit build-engine model.onnx --fp16", **facts
    )


def test_a_plans_passport_is_shown_with_it(tmp_path: Path, shown: Shown) -> None:
    path = rtx_plan(tmp_path / "model.rtx.engine")
    passport(path).write(passport_path(path))
    value = inspect(path).to_json()
    assert value["passport"]["precision"] == "fp16"
    assert [layer["type"] for layer in value["layers"]["layers"]] == ["fp16", "fp32"]
    for file in (path, passport_path(path)):
        code, out, _ = shown(str(file))
        assert code == 0
        for fact in (
            "fp16",
            "50% fp16, 50% fp32",
            "accuracy.top1",
            "0.975",
            "build-engine model.onnx --fp16",
            "tiny",
        ):
            assert fact in out, (file, fact)


@pytest.mark.parametrize(("precision", "types"), [("fp16", "fp16"), ("fp32", "fp32")])
def test_precision_is_told_as_shares_with_and_without_a_passport(
    tmp_path: Path, shown: Shown, precision: str, types: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    from toolkit.steps.build import build_engine

    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    report = build_engine(tmp_path / "model.onnx", precision=precision, backend="tensorrt-rtx")
    with_passport = shown(str(report.engine))[1]
    report.passport.unlink()
    alone = shown(str(report.engine))[1]
    for out in (with_passport, alone):
        row = next(line.split() for line in out.splitlines() if "█" in line)
        assert row[:4] == [types, "2", "2", "100%"]
    assert "build it again" in with_passport
    assert "what it was made from is unknown" in alone
    assert "by the plan itself" not in with_passport
    told = alone.partition("by the plan itself")[2]
    assert "input: float32[batch, 3, 16, 16]" in told
    assert "logits: float32[batch, 5]" in told


def test_the_bars_are_as_long_as_the_shares() -> None:
    layers = [("conv", "int8")] * 5 + [("matmul", "int8")] + [("conv", "fp16")] * 2
    table = shares_table(layers)
    assert [row[:4] for row in table.rows] == [("int8", "5", "1", "75%"), ("fp16", "2", "0", "25%")]
    assert [len(row[4]) for row in table.rows] == [18, 6]
    assert len(shares_table([*layers * 100, ("conv", "fp32")]).rows[-1][4]) == 1


def test_facts_of_the_build_are_shown(tmp_path: Path, shown: Shown) -> None:
    path = rtx_plan(tmp_path / "model.rtx.engine")
    calibration = {"data": "pictures", "images": 40, "seen": "x" * 400, "unseen_classes": []}
    facts = {"driver": "580.82.07", "cuda": "13.0", "gpu": "NVIDIA H200", "calibration": calibration}
    passport(path, partial=("fc1: fp32",), log="model.rtx.engine.log", **facts).write(passport_path(path))
    code, out, _ = shown(str(path))
    assert code == 0
    for words in ("NVIDIA driver 580.82.07, CUDA 13.0", "on NVIDIA H200", "fc1: fp32", "model.rtx.engine.log", "40"):
        assert words in out
    assert "xxx" not in out


def test_what_was_measured_is_said_in_words_and_a_table() -> None:
    share = {"count": 97, "total": 100, "rate": 0.97, "low": 0.915, "high": 0.99}
    place = {
        "measured": "2026-11-22",
        "machine": "a box",
        "device": "cuda:0",
        "provider": "TensorRT 11",
        "driver": "580",
    }
    times = {"p50": 0.001, "p95": 0.0012, "p99": 0.002, "mean": 0.001, "minimum": 0.0009}
    speed = {"batch": 8, "latency_seconds": times, "images_per_second": 8000.0, "ratio": {"value": 2.5}}
    accuracy = {"top1": share, "top5": None, "agreement": share, "non_finite": 0, "reference": "model.onnx"}
    data = {"name": "digits", "split": "test", "images": 100}
    facts, table = measured_sections(
        {
            "accuracy": {**place, **accuracy, "data": data},
            "speed": {**place, "reference": "model.onnx", "batches": [speed]},
            "accuracy_budget": {"max_drop": 0.5},
        }
    )
    assert isinstance(facts, Facts)
    text = "\n".join(value for _, value in facts.rows)
    assert "top-1 97.00 % (91.5-99.0)" in text
    assert "agrees with model.onnx on 97.00 %" in text
    assert "on cuda:0 with TensorRT 11, driver 580, a box, 2026-11-22" in text
    assert ("accuracy_budget.max_drop", "0.5") in facts.rows
    assert isinstance(table, Table)
    assert table.rows == (("8", "1 ms", "1.2 ms", "2 ms", "8,000", "2.50x"),)


@pytest.mark.parametrize("value", [3, "x", [], {}, {"data": 1}, {"batches": []}, {"batches": [1], "reference": "a"}])
def test_measurements_of_another_layout_are_shown_by_name(value: object) -> None:
    for name in ("accuracy", "speed"):
        sections = measured_sections({name: value})
        assert all(isinstance(section, Facts) for section in sections)
    assert measured_sections({}) == []


def test_a_plan_that_is_not_its_passports_says_so(tmp_path: Path, shown: Shown) -> None:
    path = rtx_plan(tmp_path / "model.rtx.engine")
    passport(path).write(passport_path(path))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    reasons = inspect(path).to_json()["reasons_not_to_run"]
    assert any("digest" in reason["cause"] for reason in reasons)
    passport_path(path).write_text('{"format": "onnx-tensorrt-toolkit/passport"')
    code, out, err = shown(str(path))
    assert code == 2
    assert "damaged" in out
    assert "TensorRT for RTX 1.7.1.116" in out
    assert [line.split()[0] for line in err.strip().splitlines()] == ["error:", "try:"]


def test_a_calibration_table_is_shown_with_its_ranges(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.calibration.json"
    ranges = {
        "input": TensorRange(2.0, -2.5, 2.0),
        "relu1": TensorRange(3.5, 0, 3.5),
        "dead": TensorRange(0.0, 0.0, 0.0),
    }
    CalibrationTable(ranges, "entropy", "sha256:" + "a" * 64, images=512).write(path)
    value = inspect(path).to_json()
    assert (value["kind"], value["method"], value["images"]) == ("table", "entropy", 512)
    assert value["ranges"]["input"]["amax"] == 2.0
    code, out, _ = shown(str(path))
    assert code == 0
    row = next(line for line in out.splitlines() if line.strip().startswith("input"))
    assert row.split() == ["input", "2", "-2.5", "2", "20.0%"]
    assert "sha256:aaaaaaaaaaaa…" in out


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.pt", b"", CheckpointError),
        ("a.pt", b"<html>", CheckpointError),
        ("a.onnx", b"", GraphError),
        ("a.onnx", b"\x08\x0agarbage", GraphError),
        ("a.engine", b"", EngineFormatError),
        ("a.engine", b"ftrt", EngineFormatError),
        ("a.engine", b"PK\x03\x04....", EngineFormatError),
        ("a.calibration.json", b"{", InputError),
        ("a.calibration.json", b'{"a": 1}', TableError),
        ("a.json", b"[1]", InputError),
        ("a.engine.json", b'{"format": "onnx-tensorrt-toolkit/passport"}', EngineFormatError),
        ("a", b"nothing known", InputError),
    ],
)
def test_a_damaged_artifact_is_refused_in_two_lines(
    tmp_path: Path, shown: Shown, name: str, content: bytes, error: type[Exception]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error):
        inspect(path)
    code, out, err = shown(str(path))
    assert (code, out) == (2, "")
    assert [line.split()[0] for line in err.strip().splitlines()] == ["error:", "try:"]
    assert name in err


@pytest.mark.parametrize("kind", ["plan", "graph", "table", "passport"])
def test_an_artifact_under_another_name_is_told_by_its_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "download"
    if kind == "plan":
        rtx_plan(path)
    elif kind == "graph":
        onnx.save(tiny_graph(), path)
    elif kind == "table":
        CalibrationTable({}, "minmax", "sha256:0").write(path)
    else:
        passport(rtx_plan(tmp_path / "e")).write(path)
    assert inspect(path).kind == kind


def test_what_json_lacks_becomes_text() -> None:
    value = as_json({"a": (1, float("nan")), 2: Path("x"), "b": float("inf"), "c": None})
    assert value == {"a": [1, "nan"], "2": "x", "b": "inf", "c": None}
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_sizes_and_lists_are_short() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 233_000_000, 2_400_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "233 MB",
        "2.4 GB",
    ]
    assert short_list(["a", "b", "c"], 2) == "a, b, … (1 more)"
    assert short_list(["a", "b"], 2) == "a, b"
