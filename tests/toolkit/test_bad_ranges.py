"""Bad ranges, and bad requests for them: one line of cause, one of remedy, exit code 2, and no file touched."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic

from calibration.qdq import quantise
from calibration.rename import sign
from calibration.table import CalibrationTable
from export.graph import load_graph, save_graph
from tests.calibration.foreign_graphs import stock
from tests.tiny import tiny_graph
from tests.toolkit.hard import Hard
from tests.toolkit.refusals import Refusal

FROM = ("calibrate", "model.onnx", "--from")
DATA = ("--data", "pictures.npz")
SENSITIVITY = ("sensitivity", "model.onnx", *DATA)
BUILD = ("build-engine", "model.onnx", "--int8")


@pytest.fixture(autouse=True)
def hard(original: Hard, tmp_path: Path) -> Hard:
    """``model.onnx``, its table and ``pictures.npz`` in the current folder."""
    copy = original.copy(tmp_path)
    copy.archive()
    return copy


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a table as a hand does."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("cut.onnx", tiny_graph().SerializeToString()[:5000], "damaged"),
        ("cut.onnx", b"", "'cut.onnx' is empty"),
        ("cut.onnx", b"my notes", "damaged"),
        ("empty", b"", "holds no ranges"),
        ("notes.txt", b"my notes", "holds no ranges"),
        ("t.calibration.json", b'{"format": ', "not JSON"),
        ("t.calibration.json", b"{}", "is not a calibration table"),
        ("t.cache", b"TRT-\n", "is no TensorRT calibration cache"),
        ("t.cache", b"TRT-101300-EntropyCalibration2\n\xff\xfe", "is no TensorRT calibration cache"),
        ("t.cache", b"TRT-101300-EntropyCalibration2\ninput: 3c01", "line 2 of 't.cache' is damaged"),
        ("t.cache", b"TRT-101300-EntropyCalibration2\ninput: 7fc00000", "the range nan"),
        (
            "t.cache",
            b"TRT-101300-EntropyCalibration2\ninput: 3c010101",
            "no range for tensor 'pool' (and 2 more)",
        ),
    ],
)
def test_ranges_taken_over_from_a_damaged_file(
    name: str, content: bytes, expected: str, refused: Refusal, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refused(*FROM, name)


def test_ranges_taken_over_from_what_holds_none(refused: Refusal, tmp_path: Path, hard: Hard) -> None:
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(*FROM, "folder")
    assert "does not exist" in refused(*FROM, "missing.onnx")
    quantize_dynamic("model.onnx", "dynamic.onnx")
    assert "computes its scales at run time" in refused(*FROM, "dynamic.onnx")
    save_graph(tiny_graph(seed=7), tmp_path / "other.onnx")
    assert "quantises no activation" in refused(*FROM, "other.onnx")
    save_graph(stock(tiny_graph(seed=7), tmp_path), tmp_path / "other.int8.onnx")
    assert "the weights of 'conv1' in 'other.int8.onnx'" in refused(*FROM, "other.int8.onnx")
    save_graph(quantise(load_graph(hard.graph), hard.table), tmp_path / "ours.onnx")
    assert "give that table" in refused(*FROM, "ours.onnx")
    assert "is both" in refused(*FROM, "model.onnx")
    assert "--images" in refused(*FROM, "other.onnx", "--images", "5")
    assert "--correct-biases" in refused(*FROM, "other.onnx", "--correct-biases")


def test_a_cache_that_cannot_be_written_is_refused_before_any_image_is_read(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my notes")
    (tmp_path / "folder").mkdir()
    nothing = ("calibrate", "model.onnx", "--data", "nothing")
    assert "another --cache" in refused(*nothing, "--cache", "nowhere/m.cache")
    assert "another --cache" in refused(*nothing, "--cache", "notes.txt")
    assert "'folder' is a folder" in refused(*nothing, "--cache", "folder")
    assert "not for FP8" in refused(*nothing, "--cache", "m.cache", "--fp8")


def test_a_cache_that_cannot_say_the_table_leaves_neither(refused: Refusal, hard: Hard) -> None:
    hard.beside.unlink()
    assert "--no-equalise" in refused("calibrate", "model.onnx", *DATA, "--cache", "m.cache")


def test_a_cache_of_ranges_taken_over_in_fp8(refused: Refusal, hard: Hard) -> None:
    sign(replace(hard.table, precision="fp8"), load_graph(hard.graph)).write("fp8.json")
    assert "not for FP8" in refused(*FROM, "fp8.json", "--cache", "m.cache")


def test_sensitivity_without_what_it_needs(refused: Refusal, hard: Hard, tmp_path: Path) -> None:
    empty = np.zeros((0, 16, 16, 3), np.uint8)
    np.savez("empty.npz", x_train=empty, y_train=np.zeros(0, int), x_test=empty, y_test=np.zeros(0, int))
    np.savez("unlabelled.npz", x_train=hard.data.train.images, x_test=hard.data.test.images)
    assert "empty.npz" in refused("sensitivity", "model.onnx", "--data", "empty.npz")
    assert "'y_train'" in refused("sensitivity", "model.onnx", "--data", "unlabelled.npz")
    assert "--images" in refused(*SENSITIVITY, "--images", "0")
    assert "'nowhere'" in refused(*SENSITIVITY, "--output", "nowhere/s.json")
    (tmp_path / "notes.json").write_text("my notes")
    assert "--force" in refused(*SENSITIVITY, "--output", "notes.json")
    assert "--fp8" in refused(*SENSITIVITY, "--fp8")
    (tmp_path / "cut.json").write_bytes(hard.beside.read_bytes()[:500])
    assert "cut.json" in refused(*SENSITIVITY, "--table", "cut.json")
    save_graph(quantise(load_graph(hard.graph), hard.table), tmp_path / "typed.onnx")
    assert "already" in refused("sensitivity", "typed.onnx", *DATA, "--table", hard.beside.name)
    hard.beside.unlink()
    assert "toolkit calibrate model.onnx" in (printed := refused(*SENSITIVITY))
    assert "give --data" not in printed  # it was given, and calibrates nothing here


def test_a_table_of_other_weights_is_refused_before_any_image_is_read(refused: Refusal, hard: Hard) -> None:
    save_graph(tiny_graph(seed=1), hard.graph)
    assert "stale" in refused("sensitivity", "model.onnx", "--data", "nothing")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--max-drop", "1"), "give --data"),
        (("--max-drop", "-1", *DATA), "-1 points"),
        (("--max-drop", "nan", *DATA), "nan points"),
        (("--max-drop", "inf", *DATA), "inf points"),
        (("--max-drop", "much", *DATA), "--max-drop"),
        (("--max-drop", "1", "--data", "nothing"), "'nothing' does not exist"),
        (("--keep", "fc22"), "did you mean 'fc2'"),
        (("--keep", ""), "no layer is called ''"),
        (("--fp16", "--max-drop", "1", *DATA), "--max-drop"),
        (("--fp8", "--compute-capability", "8.6"), "8.9"),
        (("--fp8", "--table", "model.calibration.json"), "chosen for INT8"),
        (("--fp8", "--backend", "onnxruntime"), "FP8"),
    ],
)
def test_a_build_that_cannot_be_met(arguments: tuple[str, ...], expected: str, refused: Refusal) -> None:
    assert expected in refused(*BUILD, *arguments)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"keep": ["fc3"]}, "did you mean 'fc2' or 'fc1'"),
        ({"keep": "fc2"}, "keep is 'fc2', not a list"),
        ({"equalisation": {"relu1": [1, 2]}}, "8 channels, and the table scales 2"),
        ({"equalisation": {"relu1": [-1] * 8}}, "equalisation of 'relu1' holds an impossible number"),
        ({"equalisation": {"relu1": [0] * 8}}, "equalisation of 'relu1' holds an impossible number"),
        ({"equalisation": {"relu1": [1e300] * 8}}, "equalisation of 'relu1' holds an impossible number"),
        ({"equalisation": {"relu1": 2}}, "equalisation of 'relu1' is '2', not a list"),
        ({"equalisation": {"relu9": [2] * 8}}, "'relu9'"),
        ({"biases": {"conv9": [1] * 8}}, "'conv9'"),
        ({"biases": {"conv1": [1] * 3}}, "8 channels, and the table corrects 3"),
        ({"biases": {"conv1": [float("nan")] * 8}}, "biases of 'conv1' holds an impossible number"),
        ({"biases": {"conv1": [1e300] * 8}}, "biases of 'conv1' holds an impossible number"),
        ({"biases": [1]}, "biases is '[1]', not an object"),
        ({"weight_clip": "best"}, "weight_clip is 'best', not max or mse"),
        ({"precision": "int4"}, "precision is 'int4', not int8 or fp8"),
        ({"ranges": [1]}, "ranges is '[1]', not an object"),
        ({"ranges": {"relu1": {"amax": "much"}}}, "much"),
        ({"ranges": {"relu1": {"amax": 1}}}, "no 'minimum'"),
        ({"ranges": {"relu1": {"amax": float("nan"), "minimum": 0, "maximum": 1}}}, "nan over 0.0 .. 1.0"),
        ({"ranges": {"relu1": {"amax": 1e300, "minimum": 0, "maximum": 1}}}, "1e+300 over 0.0 .. 1.0"),
        ({"ranges": {"relu1": {"amax": -1, "minimum": 0, "maximum": 1}}}, "-1.0 over 0.0 .. 1.0"),
        ({"ranges": {"relu1": {"amax": 1, "minimum": 2, "maximum": 1}}}, "minimum of 'relu1' is above its maximum"),
        ({"ranges": {}}, "no range for tensor 'input'"),
    ],
)
def test_a_table_edited_into_nonsense(change: dict[str, Any], expected: str, refused: Refusal, hard: Hard) -> None:
    edited(hard.beside, lambda value: value.update(change))
    assert expected in refused(*BUILD, "--backend", "onnxruntime")
    assert expected in refused(*SENSITIVITY, "--images", "4")


def test_a_table_edited_back_is_taken_as_it_was(hard: Hard) -> None:
    edited(hard.beside, lambda value: value.update(keep=["fc2"]))
    edited(hard.beside, lambda value: value.update(keep=[]))
    assert CalibrationTable.read(hard.beside).digest() == hard.table.digest()
