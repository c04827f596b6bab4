"""The calibration table on disk, its staleness check, and TensorRT's calibration caches."""

import json
import struct
from dataclasses import replace

import numpy as np
import onnx
import pytest

from calibration.cache import cache_groups, from_tensorrt_cache, read_tensorrt_cache, to_tensorrt_cache
from calibration.ranges import Ranges
from calibration.table import CalibrationTable, TensorRange, check_table
from engines.errors import InputError, TableError
from tests.tiny import tiny_graph

TABLE = CalibrationTable(
    {
        "input": TensorRange(2.5, -2.5, 2.25, "input", 1200),
        "relu 1: ü/x": TensorRange(0.1, 0.0, 7.0, "pool1", 300),
        "dead": TensorRange(0.0, 0.0, 0.0, "dead", 300),
    },
    "entropy",
    "sha256:aa",
    "sha256:bb",
    "sha256:cc",
    64,
    {"data": "digits", "classes": "10 of 10"},
)


def test_a_table_survives_being_written_and_read(tmp_path):
    TABLE.write(tmp_path / "m.calibration.json")
    assert CalibrationTable.read(tmp_path / "m.calibration.json") == TABLE
    assert CalibrationTable.read(tmp_path / "m.calibration.json").digest() == TABLE.digest()


def test_the_file_has_a_line_a_tensor_and_is_plain_json():
    lines = TABLE.dumps().splitlines()
    assert sum('"amax"' in line for line in lines) == 3
    assert json.loads(TABLE.dumps())["ranges"]["input"]["amax"] == 2.5


def test_its_digest_changes_with_any_range():
    other = CalibrationTable({**TABLE.ranges, "dead": TensorRange(1.0, 0.0, 1.0)}, "entropy", "sha256:aa")
    assert other.digest() != TABLE.digest()


def test_its_summary_names_method_images_and_data():
    assert TABLE.summary() == "3 ranges by entropy from 64 images of digits, 10 of 10 classes"


def test_what_is_kept_of_a_range_holds_zero_and_nothing_that_was_never_seen():
    assert (TABLE.ranges["input"].low, TABLE.ranges["input"].high) == (-2.5, 2.25)
    assert (TABLE.ranges["relu 1: ü/x"].low, TABLE.ranges["relu 1: ü/x"].high) == (0.0, 0.1)
    far = TensorRange(5.0, 3.0, 6.0)
    assert (far.low, far.high) == (0.0, 5.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "not a calibration table"),
        (b"{", "not JSON"),
        (b"[]", "not a calibration table"),
        (b'{"format": "other"}', "not a calibration table"),
        (TABLE.dumps().replace('"version": 2', '"version": 99').encode(), "version 99"),
        (TABLE.dumps().replace('"digests"', '"digest"').encode(), "no 'digests'"),
        (TABLE.dumps().replace('"amax": 2.5', '"amax": -2.5').encode(), "range of 'input'"),
        (TABLE.dumps().replace('"amax": 2.5', '"amax": NaN').encode(), "range of 'input'"),
        (TABLE.dumps().replace('"amax": 2.5', '"amax": "wide"').encode(), "damaged"),
        (TABLE.dumps().replace('"maximum": 2.25', '"maximum": -9').encode(), "minimum of 'input'"),
        (TABLE.dumps()[:-40].encode(), "not JSON"),
    ],
)
def test_a_damaged_table_is_an_error_that_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "t.calibration.json"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        CalibrationTable.read(path)
    assert caught.value.remedy


def test_a_missing_table_or_a_folder_is_an_input_error(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError):
            CalibrationTable.read(path)


def test_a_tensor_without_a_range_is_named():
    with pytest.raises(TableError, match="'conv9'"):
        TABLE.range_of("conv9")


def test_a_stale_table_is_refused_with_what_changed():
    check_table(TABLE, "sha256:aa", "sha256:cc")
    check_table(TABLE, "sha256:aa", None)
    with pytest.raises(TableError, match=r"the weights \(then aa, now dd\) changed"):
        check_table(TABLE, "sha256:dd", "sha256:cc")
    with pytest.raises(TableError, match="the preprocessing"):
        check_table(TABLE, "sha256:aa", "sha256:dd")
    with pytest.raises(TableError, match=r"the weights .* and the preprocessing"):
        check_table(TABLE, "sha256:dd", "sha256:ee")


def test_a_tensorrt_cache_is_written_byte_for_byte():
    table = CalibrationTable(
        {"input: 0": TensorRange(1.0, -1, 1), "pool": TensorRange(127.0, 0, 127), "z": TensorRange(0.0, 0, 0)},
        "entropy",
        "",
    )
    # 1/127 = 0x3c010204 as a big-endian float32, 127/127 = 0x3f800000
    expected = "TRT-101300-EntropyCalibration2\ninput: 0: 3c010204\npool: 3f800000\nz: 00000000\n"
    assert to_tensorrt_cache(table) == expected
    assert to_tensorrt_cache(table, version="10.16.1").startswith("TRT-101601-EntropyCalibration2\n")
    assert to_tensorrt_cache(table, version="8.6.1").startswith("TRT-8601-")


def test_a_minmax_table_makes_a_minmax_cache():
    table = CalibrationTable({"a": TensorRange(2.0, -2, 2)}, "minmax", "")
    assert to_tensorrt_cache(table).splitlines()[0] == "TRT-101300-MinMaxCalibration"


def test_a_cache_names_every_tensor_of_a_group_when_it_is_told_the_graph():
    model = tiny_graph()
    table = CalibrationTable(
        {"input": TensorRange(127.0, -1, 1), "relu1": TensorRange(1.0, 0, 1), "relu2": TensorRange(254.0, 0, 2)},
        "entropy",
        "",
    )
    # 127/127 = 0x3f800000, 1/127 = 0x3c010204, 254/127 = 0x40000000
    assert to_tensorrt_cache(table, groups=Ranges(model).wanted()) == (
        "TRT-101300-EntropyCalibration2\n"
        "input: 3f800000\n"
        "relu1: 3c010204\n"
        "pool: 3c010204\n"
        "relu2: 40000000\n"
        "flat: 40000000\n"
    )


def test_a_cache_of_a_graph_names_all_that_a_dla_wants_a_scale_for():
    model = tiny_graph(lrn=True)
    groups = cache_groups(model)
    named = [member for group in groups.values() for member in group.members]
    assert len(named) == len(set(named))
    made = {name for node in model.graph.node for name in node.output}
    assert made - set(named) == {"logits"}  # what a caller gets isn't rounded
    assert groups["relu1"].members == ("relu1", "conv1")


def test_what_a_relu_reads_has_its_scale_only_where_nobody_else_reads_it():
    model = tiny_graph()
    model.graph.node[-1].input[0] = "both"
    model.graph.node.insert(8, onnx.helper.make_node("Add", ["fc1", "relu3"], ["both"], "add"))
    members = {member for group in cache_groups(model).values() for member in group.members}
    assert "conv1" in members
    assert Ranges(model).wanted()["relu3"].members == cache_groups(model)["relu3"].members


def test_rounding_before_a_relu_with_the_scale_of_its_result_changes_nothing():
    values = np.random.default_rng(0).normal(0, 3, 10_000)
    scale = np.abs(np.maximum(values, 0)).max() / 2 / 127  # a range that cuts off, as entropy's does

    def rounded(x):
        return np.clip(np.rint(x / scale), -127, 127) * scale

    assert np.array_equal(np.maximum(rounded(values), 0), rounded(np.maximum(values, 0)))


def test_names_with_colons_and_spaces_survive_byte_for_byte():
    text = "TRT-8601-MinMaxCalibration\n(Unnamed Layer* 3) [Constant]: 0: 3c010204\na: b: 3f800000\n"
    table = from_tensorrt_cache(text)
    assert list(table.ranges) == ["(Unnamed Layer* 3) [Constant]: 0", "a: b"]
    assert to_tensorrt_cache(table, version="8.6.1") == text


def test_what_a_cache_can_not_say_is_refused():
    equalised = replace(TABLE, equalisation={"relu1": (1.0, 2.0), "relu2": (2.0,)})
    with pytest.raises(TableError, match=r"tensor 'relu1' \(and 1 more\) is equalised") as caught:
        to_tensorrt_cache(equalised)
    assert "--no-equalise" in caught.value.remedy
    with pytest.raises(TableError, match="ranges of fp8"):
        to_tensorrt_cache(replace(TABLE, precision="fp8"))


def test_a_cache_is_read_back_to_the_float32_it_holds(tmp_path):
    text = to_tensorrt_cache(TABLE)
    (tmp_path / "calib.cache").write_text(text)
    found = read_tensorrt_cache(tmp_path / "calib.cache", weights="sha256:aa")
    assert to_tensorrt_cache(found) == text
    assert list(found.ranges) == list(TABLE.ranges)
    (stored,) = struct.unpack(">f", struct.pack(">f", 0.1 / 127))
    assert found.ranges["relu 1: ü/x"].amax == stored * 127
    assert (found.method, found.weights) == ("entropy", "sha256:aa")
    assert found.ranges["input"].low == -found.ranges["input"].high


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "TRT-x-EntropyCalibration2\na: 3c010204",
        "TRT-101300-EntropyCalibration2\na 3c010204",
        "TRT-101300-EntropyCalibration2\na: 3c0102",
        "TRT-101300-EntropyCalibration2\na: 3c01020g",
        "TRT-101300-EntropyCalibration2\na: bc010204",
        "TRT-101300-EntropyCalibration2\na: 7f800000",
        "TRT-101300-EntropyCalibration2\na: 7fc00000",
    ],
)
def test_a_damaged_cache_is_a_table_error(text):
    with pytest.raises(TableError):
        from_tensorrt_cache(text)


def test_a_cache_can_not_be_written_for_no_version_or_with_broken_names():
    with pytest.raises(TableError, match="version"):
        to_tensorrt_cache(TABLE, version="ten")
    with pytest.raises(TableError, match="line break"):
        to_tensorrt_cache(CalibrationTable({"a\nb": TensorRange(1.0, 0, 1)}, "entropy", ""))


def test_a_cache_that_is_not_text_or_not_there_is_an_input_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TableError):
        read_tensorrt_cache(tmp_path / "binary")
    with pytest.raises(InputError):
        read_tensorrt_cache(tmp_path / "none")
