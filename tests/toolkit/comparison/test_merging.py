"""Records of several machines and days side by side."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from engines.errors import InputError
from tests.toolkit.refusals import Refusal
from toolkit.cli import run
from toolkit.comparison.records.journal import dump
from toolkit.comparison.records.merging import merge
from toolkit.comparison.records.reading import read_record, schema
from toolkit.comparison.records.record import Comparison
from toolkit.steps.reports import show_records

FIRST = Path(__file__).parent / "records" / "version-1.json"


def elsewhere(comparison: Comparison, processor: str = "Another CPU") -> Comparison:
    """The same as if another machine had measured it."""
    return replace(comparison, machines=(replace(comparison.machine, processor=processor),))


def other_data(comparison: Comparison) -> Comparison:
    assert comparison.data is not None
    return replace(comparison, data=replace(comparison.data, digest=f"sha256:{'0' * 64}"))


def test_rows_of_two_machines_stand_side_by_side_named_by_machine_where_names_clash(
    whole: Comparison, timed: Comparison
) -> None:
    renamed = replace(timed, rows=(replace(timed.rows[0], name="c.onnx"),))
    merged = merge([whole, elsewhere(whole), renamed], ["here.json", "there.json", "c.json"])
    here = whole.machine.processor
    assert [row.name for row in merged.rows] == [
        *(f"{row.name} ({here})" for row in whole.rows),
        *(f"{row.name} (Another CPU)" for row in whole.rows),
        "c.onnx",
    ] or here == timed.machine.processor
    assert [row.machine for row in merged.rows] == [0] * 4 + [1] * 4 + [2]
    assert [machine.processor for machine in merged.machines] == [here, "Another CPU", here]
    assert merged.sources == ("here.json", "there.json", "c.json")
    assert merged.command == "toolkit compare --from here.json there.json c.json"


def test_ratios_and_agreement_stay_those_within_each_record(whole: Comparison) -> None:
    merged = merge([whole, elsewhere(whole)])
    there = merged.row("b.onnx (Another CPU)")
    assert merged.reference_of(there) == "a.onnx (Another CPU)"
    assert merged.data_of(there) == whole.data
    assert there.speeds[1].ratio == whole.row("b.onnx").speeds[1].ratio
    assert there.accuracy == whole.row("b.onnx").accuracy
    assert any("refer to a.onnx (Another CPU)" in warning for warning in merged.warnings)


def test_machines_that_are_called_the_same_are_told_apart_by_the_file(whole: Comparison) -> None:
    later = replace(whole, created="2030-01-01T00:00:00+00:00")
    names = [row.name for row in merge([whole, later], ["x.json", "y.json"]).rows]
    assert names[1] == "b.onnx (x.json)"
    assert names[5] == "b.onnx (y.json)"
    names = [row.name for row in merge([whole, later], ["x.json", "x.json"]).rows]
    assert len(set(names)) == 8


def test_a_machine_with_a_gpu_is_called_by_it(whole: Comparison) -> None:
    gpu = replace(whole.machine, gpus=({"name": "NVIDIA H200", "driver": "580"},))
    merged = merge([whole, replace(whole, machines=(gpu,))])
    assert merged.rows[4].name == "a.onnx (NVIDIA H200)"


def test_the_same_record_twice_is_shown_once(whole: Comparison) -> None:
    merged = merge([whole, read_record(json.loads(dump(whole)))], ["a.json", "copy.json"])
    assert merged.rows == whole.rows
    assert merged.warnings[-1] == "'copy.json' is the same record as 'a.json': it is shown once"


def test_different_images_are_warned_of_and_their_pictures_left_out(whole: Comparison) -> None:
    merged = merge([whole, other_data(elsewhere(whole))])
    assert any("different images" in warning for warning in merged.warnings)
    there = merged.row("b.onnx (Another CPU)")
    assert there.accuracy is not None
    assert there.accuracy.disagreements == ()
    assert there.accuracy.top1 == whole.row("b.onnx").accuracy.top1  # type: ignore[union-attr]
    assert "not on those of the first record" in there.notes[-1]
    assert merged.pictures == whole.pictures
    assert merged.rows[1].accuracy == whole.rows[1].accuracy
    same = merge([whole, elsewhere(whole)])
    assert not any("different images" in warning for warning in same.warnings)


def test_a_record_without_accuracy_goes_beside_one_with_it(whole: Comparison, timed: Comparison) -> None:
    for records in ([timed, whole], [whole, timed]):
        merged = merge(records)
        assert merged.data == whole.data
        assert not any("images" in warning for warning in merged.warnings)
        assert len(merged.rows) == 5


def test_other_settings_are_named(whole: Comparison) -> None:
    other = replace(elsewhere(whole), settings={**whole.settings, "seconds": 2.0, "threads": 9})
    merged = merge([whole, other])
    assert "the records were made with different settings (seconds)" in merged.warnings


def test_an_interrupted_record_is_shown_and_warned_of(whole: Comparison) -> None:
    cut = replace(elsewhere(whole), complete=False)
    merged = merge([whole, cut], ["a.json", "b.json"])
    assert not merged.complete
    assert any("'b.json' is of a run that was interrupted" in warning for warning in merged.warnings)


def test_a_merged_record_is_one_by_the_schema_and_merges_again(whole: Comparison, timed: Comparison) -> None:
    merged = merge([whole, elsewhere(whole)], ["a.json", "b.json"])
    record = json.loads(json.dumps(merged.to_json()))
    jsonschema.Draft202012Validator(schema()).validate(record)
    again = merge([read_record(record), elsewhere(timed, "A third")], ["ab.json", "c.json"])
    assert again.sources == ("a.json", "b.json", "c.json")
    assert [row.machine for row in again.rows] == [0] * 4 + [1] * 4 + [2]
    assert again.parts[1].reference == "a.onnx (Another CPU)"


def test_a_record_of_version_1_beside_a_new_one_says_what_it_cannot_tell(whole: Comparison) -> None:
    first = read_record(FIRST)
    assert first.data is not None
    assert whole.data is not None
    alike = replace(whole, data=replace(first.data, digest=whole.data.digest))
    merged = merge([first, alike])
    assert any("doesn't tell whether its images were the same" in warning for warning in merged.warnings)
    assert not any("different images" in warning for warning in merged.warnings)


@pytest.fixture
def files(whole: Comparison, tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "here.json", tmp_path / "there.json"
    paths[0].write_text(dump(whole))
    paths[1].write_text(dump(elsewhere(whole)))
    return str(paths[0]), str(paths[1])


def test_the_command_shows_merges_judges_anew_and_writes(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = str(tmp_path / "both.json")
    assert run(["compare", "--from", *files, "--goal", "accuracy", "--record", both, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads(Path(both).read_text())
    assert json.loads(shown.out)["goal"]["aim"] == "accuracy"
    assert {verdict["facts"]["machine"] for verdict in json.loads(shown.out)["verdicts"][:2]} == {0, 1}
    assert run(["compare", "--from", both]) == 0
    table = capsys.readouterr().out
    assert "Another CPU" in table
    assert "recommended" in table


def test_a_merged_record_is_replaced_by_one_of_the_same_records_alone(files: tuple[str, str], tmp_path: Path) -> None:
    both = tmp_path / "both.json"
    show_records(files, record=both)
    show_records(files, record=both)
    with pytest.raises(InputError, match="is the record of another comparison"):
        show_records(files[::-1], record=both)
    show_records(files[::-1], record=both, force=True)
    with pytest.raises(InputError, match="would write over"):
        show_records(files, record=files[0], force=True)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("compare", "--from", "missing.json"), "does not exist"),
        (("compare", "--from", "."), "is a folder"),
        (("compare", "--from", "HERE", "model.onnx"), "'model.onnx' is none"),
        (("compare", "--from", "HERE", "--data", "digits"), "--data is given"),
        (("compare", "--from", "HERE", "--trust-pickle"), "--trust-pickle is given"),
        (("compare", "--from", "HERE", "--fresh"), "--fresh is given"),
        (("compare", "--from", "HERE", "--max-drop", "nan"), "a drop of nan points"),
        (("compare", "--from", "HERE", "--report", "nowhere/r.html"), "'nowhere' does not exist"),
        (("compare", "--from", "HERE", "--csv", "here.json"), "would write over"),
        (("compare", "--from", "HERE", "--csv", "notes.txt"), "is no report"),
        (("compare", "--from", "HERE", "--csv", "x.out", "--markdown", "./x.out"), "--csv"),
        (("compare", "HERE"), "--data is missing"),
        (("compare",), "nothing to compare"),
    ],
)
def test_options_that_make_no_sense_together(
    arguments: tuple[str, ...], cause: str, files: tuple[str, str], tmp_path: Path, refused: Refusal
) -> None:
    (tmp_path / "notes.txt").write_text("my notes")
    assert cause in refused(*("here.json" if argument == "HERE" else argument for argument in arguments))


def test_a_merged_record_that_is_merged_again_keeps_the_warnings_of_its_parts(whole: Comparison) -> None:
    doubtful = replace(elsewhere(whole), warnings=("other work kept 1.0 of 2 cores busy",))
    both = merge([whole, doubtful], ["a.json", "b.json"])
    again = merge([both, elsewhere(whole, "A third CPU")], ["both.json", "c.json"])
    assert again.warnings.count("b.json: other work kept 1.0 of 2 cores busy") == 1
