"""What a run leaves on disk while it goes on, and who goes on with it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import files
from engines.errors import InputError, RunError
from engines.store import open_store
from tests.toolkit.comparison.conftest import QUICK
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.cli import run
from toolkit.comparison.records import journal as journals
from toolkit.comparison.records.journal import Journal, dump
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.records.record import Comparison
from toolkit.steps.bench import bench
from toolkit.steps.compare import compare

KEY = f"sha256:{'1' * 64}"


def cut(comparison: Comparison, key: str = KEY) -> Comparison:
    """As an interrupted run leaves it."""
    return replace(comparison, complete=False, key=key, verdicts=())


def test_an_interrupted_record_of_the_same_key_is_taken_up(timed: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(dump(cut(timed)))
    found = Journal.at(path, KEY, "another command")
    assert found.known is not None
    assert found.known.rows[0].name == "a.onnx"
    assert Journal.at(path, KEY, "", fresh=True).known is None
    path.write_text(dump(replace(timed, key=KEY)))
    assert Journal.at(path, KEY, "").known is None, "what is complete is measured again"


def test_the_same_command_on_a_file_that_has_changed_begins_anew(timed: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(dump(cut(timed, f"sha256:{'2' * 64}")))
    found = Journal.at(path, KEY, timed.command)
    assert (found.known, found.stale) == (None, True)


@pytest.mark.parametrize("content", ["record", "{}", "my notes", ""])
def test_the_record_of_another_comparison_and_other_files_are_left_alone(
    content: str, timed: Comparison, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text(dump(cut(timed, f"sha256:{'2' * 64}")) if content == "record" else content)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"another comparison|no record of a comparison") as caught:
        Journal.at(path, KEY, "another command")
    assert "--force" in caught.value.remedy
    with pytest.raises(InputError):
        Journal.at(path, KEY, "another command", fresh=True)
    assert path.read_bytes() == before
    assert Journal.at(path, KEY, "another command", force=True).known is None


def test_a_merged_record_is_never_written_over_by_another(timed: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(dump(replace(timed, key="")))
    with pytest.raises(InputError):
        journals.check_record(path, "", "toolkit compare --from x.json", force=False)


def test_a_file_that_cannot_be_written_is_found_out_before_the_measuring(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.comparison.measuring.run.open_all", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(InputError, match="does not exist"):
        bench(models / "a.onnx", record=tmp_path / "nowhere" / "r.json", **QUICK)
    with pytest.raises(InputError, match="is a folder"):
        bench(models / "a.onnx", record=tmp_path, **QUICK)

    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    with pytest.raises(InputError, match="No space left") as caught:
        bench(models / "a.onnx", record=tmp_path / "r.json", **QUICK)
    assert "--record" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


class Stop(BaseException):
    """Ends a run from inside, as Ctrl-C does."""


def stop_after(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the journal be written so often, then stop the run."""
    write = Journal.write

    def counted(self: Journal, comparison: Comparison) -> None:
        write(self, comparison)
        nonlocal times
        times -= 1
        if times == 0:
            raise Stop

    monkeypatch.setattr(Journal, "write", counted)


@pytest.mark.parametrize("times", [1, 3])
def test_a_run_goes_on_wherever_it_was_stopped(
    times: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After evaluating, or after any batch size of any launch."""
    path = tmp_path / "r.json"
    said: list[str] = []

    def go() -> Comparison:
        return compare(
            [models / "a.onnx", models / "b.onnx"], models / "data.npz", record=path, say=said.append, **QUICK
        )

    with monkeypatch.context() as patch:
        stop_after(patch, times)
        with pytest.raises(Stop):
            go()
    first = read_record(path)
    assert not first.complete
    assert not said
    result = go()
    assert result.complete
    assert "is continued" in said[0]
    assert result.data == first.data
    timed = 0
    for row in first.rows:
        assert result.row(row.name).accuracy == row.accuracy
        for batch, speed in row.speeds.items():
            launches = result.row(row.name).speeds[batch].timing.launches
            assert launches[: len(speed.timing.launches)] == speed.timing.launches
            assert len(launches) == 2
            timed += len(speed.timing.launches)
    assert timed == 2 * (times - 1)
    assert json.loads(path.read_text())["complete"]


def test_a_complete_record_stays_until_its_successor_is_complete(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, beside = tmp_path / "r.json", tmp_path / "r.json.partial"
    said: list[str] = []

    def go() -> Comparison:
        return bench([models / "a.onnx", models / "b.onnx"], record=path, say=said.append, **QUICK)

    first = go()
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            go()
    assert path.read_bytes() == before
    kept = read_record(beside)
    assert not kept.complete
    assert not said
    second = go()
    assert "is continued" in said[0]
    assert not beside.exists()
    now = read_record(path)
    assert now.complete
    assert now.row("a.onnx").speeds[1].timing.launches[0] == kept.row("a.onnx").speeds[1].timing.launches[0]
    assert second.row("a.onnx").speeds[1].timing.launches[0] == kept.row("a.onnx").speeds[1].timing.launches[0]
    assert second.row("a.onnx").speeds != first.row("a.onnx").speeds


def test_a_run_that_failed_altogether_is_tried_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was killed for want of memory may run now; going on would only repeat what was said then."""
    big = Contestant(str(models / "other.engine"), opener=f"{HERE}:hungry", options={"limit": 3})
    with pytest.raises(RunError, match="SIGKILL"):
        bench(big, launches=1, **QUICK)
    monkeypatch.setattr("toolkit.steps.compare.run", lambda _, __, known, ___: pytest.fail(f"known: {known}"))
    with pytest.raises(pytest.fail.Exception, match="known: None"):
        bench(big, launches=1, **QUICK)


def test_what_cast_doubt_on_the_first_part_of_a_run_is_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stop):
            bench(models / "a.onnx", record=path, **QUICK)
    left = read_record(path)
    (conditions,) = left.conditions
    assert conditions is not None
    path.write_text(dump(replace(left, conditions=(replace(conditions, throttled=3),))))
    found = bench(models / "a.onnx", record=path, **QUICK).warnings
    assert [line for line in found if "slowed 3 times" in line] == [
        "before the interruption, the CPU was slowed 3 times during the timing, by heat or by a container's quota"
    ]


def test_without_a_file_of_ones_own_the_cache_keeps_it_until_all_is_measured(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stop):
            bench(models / "a.onnx", launches=1, **QUICK)
    (entry,) = open_store().entries("comparisons")
    assert "bench" in entry.what
    bench(models / "a.onnx", launches=1, say=said.append, **QUICK)
    assert "is continued (timed at batch 1)" in said[0]
    assert open_store().entries("comparisons") == ()


def test_a_damaged_record_in_the_cache_counts_as_none(timed: Comparison) -> None:
    kept = Journal.in_cache(KEY, timed.command)
    kept.write(cut(timed))
    assert Journal.in_cache(KEY, timed.command).known is not None
    assert Journal.in_cache(KEY, timed.command, fresh=True).known is None
    assert kept.path is not None
    kept.path.write_text("{")
    assert Journal.in_cache(KEY, timed.command).known is None


def test_without_a_cache_nothing_is_kept_and_nothing_is_lost(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE_LIMIT", "0")
    assert bench(models / "a.onnx", launches=1, **QUICK).complete


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_killed_leaves_a_whole_record_and_goes_on(
    way: signal.Signals, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    command = [
        "bench",
        str(models / "a.onnx"),
        "--batch",
        "1,4,8",
        "--seconds",
        "0.3",
        "--rounds",
        "8",
        "--launches",
        "1",
    ]
    command += ["--record", str(path)]
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; from toolkit.cli import main; main(sys.argv[1:])", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(way)
        assert process.stderr is not None
        printed = process.stderr.read()
    left = read_record(path)
    assert not left.complete
    assert 0 < len(left.rows[0].speeds) < 3
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
    if way is signal.SIGINT:
        assert process.returncode == 130, printed
        assert printed.splitlines()[-1] == (
            f"interrupted: what was measured is kept in '{path}', and the same command goes on from there"
        )
    assert run(command) == 0
    assert "is continued (timed at batch 1" in capsys.readouterr().err
    result = read_record(path)
    assert result.complete
    assert set(result.rows[0].speeds) == {1, 4, 8}
    for batch, speed in left.rows[0].speeds.items():
        assert result.rows[0].speeds[batch] == speed
