"""``toolkit inspect`` of a calibration table that decides more than ranges."""

from pathlib import Path

import pytest

from calibration.table import CalibrationTable, TensorRange
from toolkit.cli import run
from toolkit.inspection.table import measured_best


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert run(["inspect", str(path)]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_everything_that_the_table_decides_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.fp8.calibration.json"
    CalibrationTable(
        {"input": TensorRange(2.0, -2.5, 2.0, method="mse"), "relu1": TensorRange(3.5, 0, 3.5)},
        "auto",
        "sha256:aa",
        facts={
            "auto": [{"name": "mse", "sqnr_db": 31.256, "agreement": 1.0}, {"name": "minmax", "sqnr_db": 9.5}],
            "best": {"name": "mse", "sqnr_db": 31.256, "agreement": 0.9922},
            "held_out": 64,
            "more": [{"what": "a", "much": 1.5}],
        },
        precision="fp8",
        preprocess="sha256:bb",
        weight_clip="mse",
        keep=("conv1", "fc2"),
        equalisation={"relu1": (1.0, 2.0)},
        biases={"conv1": (0.5,)},
    ).write(path)
    lines = shown(path, capsys)
    for expected in (
        ["precision", "fp8"],
        ["ranges", "of", "weights", "by", "mse"],
        ["kept", "unquantised", "conv1,", "fc2"],
        ["tensors", "equalised", "relu1"],
        ["biases", "corrected", "conv1"],
        ["what", "auto", "measured,", "on", "64", "held-out", "images"],
        ["candidate", "SQNR", "dB", "labels", "as", "in", "FP32", "KL"],
        ["mse", "31.3", "100", "%"],
        ["minmax", "9.5", "-"],
        ["what", "much"],
        ["a", "1.5"],
        ["input", "2", "-2.5", "2", "20.0%", "mse"],
        ["relu1", "3.5", "0", "3.5", "0.0%", "auto"],
    ):
        assert expected in lines
    best = "measured best mse: 31.3 dB SQNR, 99.22 % of labels as in FP32, on 64 held-out images"
    assert best.split() in lines


def test_what_a_plain_table_leaves_as_it_is_takes_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.calibration.json"
    CalibrationTable({"input": TensorRange(2.0, -2.5, 2.0)}, "entropy", "sha256:aa").write(path)
    words = {line[0] for line in shown(path, capsys)}
    assert words.isdisjoint({"kept", "biases", "equalised"})


def test_of_a_network_without_classes_no_share_of_labels_is_told() -> None:
    facts = {"best": {"name": "mse", "sqnr_db": 31.256, "agreement": None}, "held_out": 6}
    table = CalibrationTable({"x": TensorRange(2.0, -2.5, 2.0)}, "auto", "sha256:aa", facts=facts)
    assert measured_best(table) == "mse: 31.3 dB SQNR, on 6 held-out samples"
