"""A comparison says which engines were calibrated on the images that they are judged on, or never saw a class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.progress import QUIET
from export.graph import save_graph
from tests.tiny import CLASSES, METADATA, tiny_graph, tiny_images
from tests.toolkit.comparison.graphs import open_entries
from toolkit.comparison.measuring import evaluate
from toolkit.comparison.measuring.plan import Plan
from toolkit.data import Dataset, PreprocessHint, Split
from toolkit.steps.build import build_engine
from toolkit.steps.compare import compare

IMAGES = tiny_images(60, seed=4)
LABELS = np.arange(60) % CLASSES


def dataset(train: slice, test: slice) -> Dataset:
    hint = PreprocessHint("stretch", 3, 16, 16)
    return Dataset(
        "blobs", METADATA.labels, Split(IMAGES[train], LABELS[train]), Split(IMAGES[test], LABELS[test]), hint
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """Calibrated on the first 34 images."""
    master = tmp_path_factory.mktemp("provenance") / "model.onnx"
    save_graph(tiny_graph(), master)
    return build_engine(
        master, precision="int8", backend="onnxruntime", data=dataset(slice(0, 34), slice(34, 60)), method="minmax"
    ).engine


def notes(engine: Path, data: Dataset) -> tuple[str, ...]:
    (row,) = compare([engine], data, batch_sizes=(), update_passports=False).rows
    return row.notes


def test_images_that_were_calibrated_on_are_counted(engine):
    found = notes(engine, dataset(slice(0, 1), slice(30, 60)))
    assert found == ("4 of the 30 evaluated images were calibrated on: its accuracy may be flattered",)


def test_they_are_all_counted_when_an_evaluation_goes_on_after_an_interruption(engine, monkeypatch):
    monkeypatch.setattr(evaluate, "KEEP_SECONDS", -1)
    states: list[str] = []

    def found(**options: Any) -> list[str]:
        entries, workers = open_entries([engine])
        data = dataset(slice(0, 1), slice(0, 60))
        plan = Plan((entries[engine.name].contestant,))
        evaluate.evaluate(plan, data, entries, workers, reference=engine.name, progress=QUIET, **options)
        workers[engine.name].close()
        return entries[engine.name].notes

    whole = found(keep=lambda state: states.append(json.dumps(state)))
    assert whole == ["34 of the 60 evaluated images were calibrated on: its accuracy may be flattered"]
    assert found(known=json.loads(states[0])) == whole


def test_images_that_were_not_are_not(engine):
    assert notes(engine, dataset(slice(0, 1), slice(34, 60))) == ()


def test_classes_that_calibration_never_saw_are_named(tmp_path):
    master = tmp_path / "model.onnx"
    save_graph(tiny_graph(), master)
    few = dataset(slice(0, 3), slice(34, 60))
    engine = build_engine(master, precision="int8", backend="onnxruntime", data=few, method="minmax").engine
    (note,) = notes(engine, few)
    assert note == f"calibrated without any image of {METADATA.labels[3]!r}, {METADATA.labels[4]!r}"


def test_a_passport_of_another_file_says_nothing(engine, tmp_path):
    other = tmp_path / "model.int8.ort.onnx"
    save_graph(tiny_graph(seed=2), other)
    (tmp_path / "model.int8.ort.onnx.json").write_bytes(Path(f"{engine}.json").read_bytes())
    assert notes(other, dataset(slice(0, 1), slice(30, 60))) == ()
