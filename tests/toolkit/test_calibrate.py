"""``toolkit.calibrate`` and ``toolkit calibrate``: from a graph and data to a table on disk."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from calibration.collect import collect
from calibration.qdq import quantise
from calibration.table import CalibrationTable
from engines.errors import DataError, GraphError, InputError
from export.graph import load_graph, save_graph, weights_digest
from tests.tiny import CLASSES, METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.cli.calibrate import METHODS, command
from toolkit.data.dataset import Dataset, PreprocessHint, Split
from toolkit.steps.calibrate import calibrate

IMAGES = tiny_images(60, seed=3)
LABELS = np.arange(60) % CLASSES


def dataset(**changes) -> Dataset:
    parts = {
        "name": "blobs",
        "labels": METADATA.labels,
        "train": Split(IMAGES[:40], LABELS[:40]),
        "test": Split(IMAGES[40:], LABELS[40:]),
        "preprocess_hint": PreprocessHint("stretch", 3, 16, 16),
    }
    return Dataset(**parts | changes)


@pytest.fixture
def graph(tmp_path):
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_table_is_written_beside_the_graph_and_holds_what_the_train_split_gives(graph):
    table = calibrate(graph, dataset(), method="minmax", images=1000, batch_size=7)
    assert CalibrationTable.read(graph.with_name("model.calibration.json")) == table
    assert table.images == 40
    expected = collect(tiny_graph(), [PREPROCESS.normalise(IMAGES[:40])]).table("minmax")
    for name, found in table.ranges.items():
        assert found.amax == pytest.approx(expected.ranges[name].amax, rel=1e-5)
    assert table.weights == weights_digest(load_graph(graph))
    assert table.preprocess == PREPROCESS.digest()
    assert table.facts == {"data": "blobs", "split": "train", "seed": 0, "classes": "5 of 5"}


def test_the_table_serves_both_targets(graph):
    table = calibrate(graph, dataset())
    for target in ("tensorrt", "onnxruntime"):
        onnx.checker.check_model(quantise(load_graph(graph), table, target), full_check=True)


def test_the_data_digest_is_of_the_pixels_and_not_of_how_they_are_batched(graph, tmp_path):
    def digest(name, **options):
        return calibrate(graph, options.pop("data", dataset()), output=tmp_path / name, **options).data

    first = digest("a.calibration.json", batch_size=3, images=20)
    assert digest("b.calibration.json", batch_size=20, images=20) == first
    assert digest("c.calibration.json", seed=1, images=20) != first
    other = IMAGES[:40].copy()
    other[:, 0, 0, 0] ^= 1
    changed = dataset(train=Split(other, LABELS[:40]))
    assert digest("d.calibration.json", data=changed, images=20) != first


def test_the_same_call_gives_the_same_table(graph):
    assert calibrate(graph, dataset(), images=20) == calibrate(graph, dataset(), images=20)


def test_classes_that_calibration_has_not_seen_are_told(graph):
    table = calibrate(graph, dataset(train=Split(IMAGES[:4], LABELS[:4])))
    assert table.facts["classes"] == "4 of 5"


def test_bad_requests_are_refused_before_any_work(graph, tmp_path):
    with pytest.raises(InputError, match="'magic'"):
        calibrate(graph, dataset(), method="magic")
    for options in ({"images": 0}, {"batch_size": 0}, {"threads": 0}):
        with pytest.raises(InputError, match="give 1 or more"):
            calibrate(graph, dataset(), **options)
    with pytest.raises(DataError, match="does not exist"):
        calibrate(graph, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="does not exist"):
        calibrate(tmp_path / "none.onnx", dataset())
    assert not graph.with_name("model.calibration.json").exists()


def test_a_graph_that_is_quantised_or_tells_no_preprocessing_is_refused(graph, tmp_path):
    table = calibrate(graph, dataset())
    save_graph(quantise(load_graph(graph), table, "onnxruntime"), tmp_path / "model.int8.ort.onnx")
    with pytest.raises(GraphError, match="int8 already, not a master"):
        calibrate(tmp_path / "model.int8.ort.onnx", dataset())
    save_graph(tiny_graph(metadata=None), tmp_path / "foreign.onnx")
    with pytest.raises(GraphError, match="preprocessed"):
        calibrate(tmp_path / "foreign.onnx", dataset())


def test_a_table_of_other_weights_or_a_foreign_file_is_not_overwritten_without_force(graph):
    target = graph.with_name("model.calibration.json")
    calibrate(graph, dataset())
    calibrate(graph, dataset(), method="minmax")  # from the same weights: replaced
    save_graph(tiny_graph(seed=1), graph)
    with pytest.raises(InputError, match="--force"):
        calibrate(graph, dataset())
    target.write_text("my notes")
    with pytest.raises(InputError, match="--force"):
        calibrate(graph, dataset())
    assert target.read_text() == "my notes"
    assert calibrate(graph, dataset(), force=True).weights == weights_digest(tiny_graph(seed=1))


def npz(tmp_path):
    path = tmp_path / "blobs.npz"
    np.savez(path, x_train=IMAGES[:40], y_train=LABELS[:40], x_test=IMAGES[40:], y_test=LABELS[40:])
    return path


def test_the_command_writes_the_table_and_prints_one_line_or_json(graph, tmp_path):
    save_graph(tiny_graph(metadata=None), graph)
    result = CliRunner().invoke(command, [str(graph), "--data", "digits"])
    assert isinstance(result.exception, GraphError)

    labels = tuple(map(str, range(CLASSES)))
    metadata = type(METADATA)("tiny", labels, PREPROCESS)
    save_graph(tiny_graph(metadata=metadata), graph)
    data = str(npz(tmp_path))
    result = CliRunner().invoke(command, [str(graph), "--data", data, "--images", "20", "--method", "mse"])
    assert result.exception is None, result.output
    assert "ranges by mse from 20 images" in result.output
    result = CliRunner().invoke(command, [str(graph), "--data", data, "--json"])
    assert json.loads(result.stdout)["method"] == "entropy"


def test_the_command_needs_data(graph):
    result = CliRunner().invoke(command, [str(graph)])
    assert result.exit_code == 2
    assert "--data" in result.output


def test_the_commands_methods_are_all_that_there_are():
    from calibration.methods import METHODS as ALL

    assert tuple(ALL) == METHODS
