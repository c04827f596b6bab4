"""Where a comparison is written to, and what is never written over."""

import json
from pathlib import Path

import pytest

from engines.errors import InputError
from tests.toolkit.comparison.conftest import QUICK
from tests.toolkit.refusals import Refusal
from toolkit.cli import run
from toolkit.comparison.records.journal import dump
from toolkit.comparison.records.record import Comparison
from toolkit.steps.bench import bench
from toolkit.steps.compare import compare
from toolkit.steps.reports import Outputs, show_records


def test_a_report_has_its_record_beside_it(tmp_path: Path) -> None:
    assert Outputs.of(report=tmp_path / "v1.2.html").record == tmp_path / "v1.2.json"
    assert Outputs.of(report="r.html", record="x.json").record == Path("x.json")
    assert Outputs.of(csv="x.csv").record is None
    assert Outputs.of(report="r.html", beside=False).record is None


def test_reports_are_replaced_by_newer_ones_and_nothing_else_is(whole: Comparison, tmp_path: Path) -> None:
    record = tmp_path / "r.json"
    record.write_text(dump(whole))
    paths = {"report": tmp_path / "r.html", "markdown": tmp_path / "r.md", "csv": tmp_path / "r.csv"}
    show_records([record], **paths)
    show_records([record], **paths, goal="accuracy")
    assert all(path.stat().st_size > 100 for path in paths.values())
    for name, path in paths.items():
        path.write_text("# How to use `toolkit compare model.onnx`, a text about onnx-tensorrt-toolkit")
        with pytest.raises(InputError, match="is no report") as caught:
            show_records([record], **{name: path})
        assert "--force" in caught.value.remedy
        assert path.read_text().startswith("# How")
        show_records([record], **{name: path}, force=True)
        assert not path.read_text().startswith("# How")


def test_a_run_writes_all_that_was_asked_for_and_the_command_says_where(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.html"
    arguments = ["bench", str(models / "a.onnx"), "--batch", "1", "--seconds", "0.01", "--rounds", "2"]
    assert run([*arguments, "--launches", "1", "--report", str(report), "--csv", str(tmp_path / "r.csv")]) == 0
    shown = capsys.readouterr()
    assert f"report: {report}" in shown.err
    assert json.loads((tmp_path / "r.json").read_text())["complete"]
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "r.json", "r.csv"}
    assert shown.out.startswith("Speed")


def test_when_a_report_cannot_be_written_its_figures_are_not_lost(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("can't write 'r.html': No space left on device", "make room")

    monkeypatch.setattr("toolkit.report.write_report", full)
    with pytest.raises(InputError, match="No space left") as caught:
        bench(models / "a.onnx", report=tmp_path / "r.html", launches=1, **QUICK)
    assert f"toolkit compare --from {tmp_path / 'r.json'}" in caught.value.remedy
    assert json.loads((tmp_path / "r.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--record", "a.onnx", "--force"), "would write over 'a.onnx'"),
        (("--record", "a.onnx.json", "--force"), "would write over 'a.onnx.json'"),
        (("--report", "r.html", "--csv", "r.json"), "--csv"),
        (("--report", "nowhere/r.html"), "'nowhere' does not exist"),
        (("--markdown", "."), "is a folder"),
        (("--csv", "notes.txt"), "is no report of a comparison"),
        (("--record", "notes.txt"), "is no record of a comparison"),
        (("--launches", "0"), "--launches"),
        (("--batch", "sweeping"), "not 'sweep'"),
    ],
)
def test_what_makes_no_sense_is_found_out_before_the_measuring(
    arguments: tuple[str, ...], cause: str, models: Path, tmp_path: Path, refused: Refusal
) -> None:
    (tmp_path / "notes.txt").write_text("my notes")
    (tmp_path / "a.onnx").write_bytes((models / "a.onnx").read_bytes())
    (tmp_path / "a.onnx.json").write_text("a passport")
    assert cause in refused("bench", "a.onnx", *arguments)


def test_the_data_is_never_written_over(models: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes((models / "data.npz").read_bytes())
    with pytest.raises(InputError, match="would write over"):
        compare([models / "a.onnx"], data, csv=data, force=True, **QUICK)
