"""Records read back: this version's, the first one's, and everything that is none."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toolkit
from engines.errors import InputError
from toolkit.cli import run
from toolkit.comparison.records import reading
from toolkit.comparison.records.journal import dump
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.records.record import Comparison

FIRST = Path(__file__).parent / "records" / "version-1.json"


def test_a_record_on_disk_is_the_comparison(whole: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(dump(whole))
    assert read_record(path).to_json() == whole.to_json()
    assert toolkit.read_record(str(path)).rows[1].speeds[4].timing.runs == whole.rows[1].speeds[4].timing.runs
    assert read_record(json.loads(dump(whole))).to_json() == whole.to_json()


def test_the_text_of_a_record_is_indented_and_the_numbers_of_a_turn_are_a_line(whole: Comparison) -> None:
    text = dump(whole)
    assert json.loads(text) == json.loads(json.dumps(whole.to_json()))
    assert len(text.splitlines()) < 3000
    times = json.dumps(whole.to_json()["rows"][0]["speed"][0]["run_seconds"][0][0])
    assert times in text


def test_a_record_of_version_1_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    old = json.loads(FIRST.read_text())
    comparison = read_record(FIRST)
    assert comparison.machine.processor == old["machine"]["processor"]
    assert [row.name for row in comparison.rows] == ["a.onnx", "b.onnx", "other.engine"]
    a, b, other = comparison.rows
    speed, was = b.speeds[4], old["rows"][1]["speed"][1]
    assert speed.timing.p50 == was["latency_seconds"]["p50"]
    assert [list(turn) for turn in speed.timing.blocks] == was["block_seconds"]
    assert speed.ratio is not None
    assert speed.ratio.value == was["ratio"]["value"]
    assert b.accuracy is not None
    assert b.accuracy.top1.count == old["rows"][1]["accuracy"]["top1"]["count"]
    assert (b.accuracy.against, b.proof, comparison.conditions) == (None, None, (None,))
    assert a.opened is not None
    assert a.cold_starts[0].first == old["rows"][0]["cold_start_seconds"]["first_run"]
    assert other.failure is not None
    assert run(["compare", "--from", str(FIRST), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["version"] == 2
    assert read_record(again).rows == comparison.rows


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in names}


def changed(value: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(value))
    change(found)
    return found


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda _: [1, 2], "not a record"),
    "other JSON": (lambda _: {"format": "onnx-tensorrt-toolkit/passport"}, "not a record"),
    "newer": (lambda v: {**v, "version": 3}, "this toolkit reads records up to version 2"),
    "no version": (lambda v: {**v, "version": "two"}, "no version"),
    "a key less": (lambda v: without(v, "rows"), "'rows' is a required property"),
    "rows no list": (lambda v: {**v, "rows": 7}, "rows: "),
    "a row no object": (lambda v: {**v, "rows": [7]}, "rows[0]: "),
    "a wrong type": (lambda v: changed(v, lambda x: x["rows"][0].update(size_bytes="many")), "rows[0].size_bytes"),
    "text among times": (
        lambda v: changed(v, lambda x: x["rows"][0]["speed"][0]["run_seconds"][0][0].append("fast")),
        "something else than seconds",
    ),
    "a negative time": (
        lambda v: changed(v, lambda x: x["rows"][0]["speed"][0]["run_seconds"][0][0].append(-0.1)),
        "something else than seconds",
    ),
    "names twice": (
        lambda v: changed(v, lambda x: x["rows"][1].update(name=x["rows"][0]["name"])),
        "two rows are called",
    ),
    "no such reference": (lambda v: {**v, "reference": "nobody"}, "no row 'nobody'"),
    "no such machine": (lambda v: changed(v, lambda x: x["rows"][0].update(machine=1)), "a machine that isn't there"),
    "a class that isn't there": (
        lambda v: changed(v, lambda x: x["rows"][0]["accuracy"]["confusion"]["cells"].append([99, 0, 1])),
        "damaged",
    ),
    "version 1 cut short": (lambda _: {**json.loads(FIRST.read_text()), "machine": None}, "damaged"),
    "version 1 without rows": (lambda _: without(json.loads(FIRST.read_text()), "rows"), "it has no 'rows'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_record_of_ours_is_refused_with_cause_and_remedy(
    name: str, whole: Comparison, tmp_path: Path
) -> None:
    damage, cause = DAMAGES[name]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(damage(json.loads(dump(whole)))))
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert cause in caught.value.cause
    assert str(path) in caught.value.cause
    assert caught.value.remedy
    assert "\n" not in caught.value.cause
    assert len(caught.value.cause) < 300 + len(str(path))


@pytest.mark.parametrize("content", [b"", b"  \n", b"hello", b"\x80\x04\x95", b"[" * 100_000, b'{"schema": NaN}'])
def test_files_that_hold_no_json_object(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert caught.value.remedy
    assert "\n" not in caught.value.cause


def test_a_record_cut_off_anywhere_is_damaged_and_never_half_read(timed: Comparison, tmp_path: Path) -> None:
    text = dump(timed)
    path = tmp_path / "r.json"
    for part in range(0, len(text) - 2, len(text) // 40):
        path.write_text(text[:part])
        with pytest.raises(InputError):
            read_record(path)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in JSON; of a list's items the first and the last."""
    yield place
    for key in value if isinstance(value, dict) else {0, len(value) - 1} if isinstance(value, list) and value else ():
        yield from places(value[key], (*place, key))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner), max_leaves=3
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=VALUES)
def test_any_value_anywhere_is_read_or_refused(data: st.DataObject, value: Any, whole: Comparison) -> None:
    record = json.loads(dump(whole))
    *where, last = data.draw(st.sampled_from([place for place in places(record) if place]))
    inner = record
    for step in where:
        inner = inner[step]
    inner[last] = value
    with contextlib.suppress(InputError):
        read_record(record)


def test_a_folder_a_pipe_a_missing_and_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, cause in ((".", "is a folder"), ("pipe", "pipe"), ("missing.json", "does not exist")):
        with pytest.raises(InputError, match=cause):
            read_record(tmp_path / name)
    monkeypatch.setattr(reading, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="too many for a record"):
        read_record(FIRST)


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--schema"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == reading.schema()
    assert shown["properties"]["version"] == {"const": 2}
