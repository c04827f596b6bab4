"""The rows for a spreadsheet."""

import csv
from dataclasses import replace

from tests.toolkit.report import records
from toolkit.report import COLUMNS, csv_rows, write_csv


def test_a_row_each_artifact_and_batch_size_with_every_digit(tmp_path):
    made = records.comparison()
    path = tmp_path / "rows.csv"
    write_csv(made, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 5 * 3 + 2
    for row in rows:
        own = made.row(row["artifact"])
        assert int(row["size_bytes"]) == own.size
        if own.failure:
            assert row["failure"] == own.failure.cause
            assert row["batch_images"] == row["p50_seconds"] == row["top1_rate"] == ""
            continue
        speed = own.speeds[int(row["batch_images"])]
        assert float(row["p50_seconds"]) == speed.timing.p50
        assert float(row["images_per_second"]) == speed.timing.images_per_second
        assert float(row["p50_low_seconds"]) == speed.timing.intervals["p50"][0]
        assert float(row["top1_rate"]) == own.accuracy.top1.rate
        assert row["speed_ratio"] == ("" if speed.ratio is None else str(speed.ratio.value))
        assert row["recommended"] == str(int(own.name == "model.int8.ort.onnx"))


def test_columns_are_stable_and_skipped_sizes_have_their_reason():
    made = records.comparison(records.DEMO[:2], batches=(1,))
    first, *others = made.rows
    made = replace(made, rows=(replace(first, skipped={8: "the engine takes batches of exactly 1"}), *others))
    rows = list(csv_rows(made))
    assert [(row["artifact"], row["batch_images"]) for row in rows] == [
        ("model.pt", 1), ("model.pt", 8), ("model.onnx", 1)
    ]  # fmt: skip
    assert rows[1]["skipped"] == "the engine takes batches of exactly 1"
    assert rows[1]["p50_seconds"] is None
    assert COLUMNS[:4] == ("artifact", "path", "digest", "architecture")
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_a_name_is_never_a_formula(tmp_path):
    path = tmp_path / "rows.csv"
    write_csv(records.comparison((records.Kind("=1+1"), records.Kind('x,"y"\nz')), batches=(1,)), path)
    with path.open(newline="") as file:
        assert [row["artifact"] for row in csv.DictReader(file)] == ["'=1+1", 'x,"y"\nz']
