"""``toolkit.calibrate`` and ``toolkit calibrate``: from a graph and data to a table on disk."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from calibration.cache import read_tensorrt_cache
from calibration.collect import TappedGraph, channel_maxima, collect
from calibration.equalise import equalisable, equalise
from calibration.provenance import fingerprint, pack
from calibration.qdq import quantise
from calibration.ranges import Ranges
from calibration.table import CalibrationTable
from engines.errors import DataError, GraphError, InputError
from export.graph import load_graph, save_graph, weights_digest
from tests.tiny import CLASSES, METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.cli.calibrate import METHODS, command
from toolkit.data.dataset import Dataset, PreprocessHint, Split, choose
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
    assert table.seen == pack(map(fingerprint, IMAGES[choose(dataset().train, 1000, 0)]))
    assert all(found.signature for found in table.ranges.values())


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
    assert table.facts["unseen_classes"] == [METADATA.labels[4]]


def test_auto_measures_every_method_on_images_that_no_histogram_has_seen(graph):
    table = calibrate(graph, dataset(), images=40)
    assert table.method == "auto"
    assert table.images == 40
    assert table.facts["held_out"] == 5
    tried = {trial["name"] for trial in table.facts["auto"]}
    assert tried <= {*METHODS, "weights clipped", "biases corrected"} | {name for name in tried if ": " in name}
    best = max(trial["sqnr_db"] for trial in table.facts["auto"])
    assert table.facts["best"]["sqnr_db"] >= best - 0.2
    counted = choose(dataset().train, 40, 0)[:35]
    alone = collect(tiny_graph(), [PREPROCESS.normalise(IMAGES[counted])]).table("minmax")
    for name, found in table.ranges.items():
        assert found.maximum == pytest.approx(alone.ranges[name].maximum, rel=1e-5)


def test_auto_needs_an_image_to_hold_back(graph):
    with pytest.raises(InputError, match="holds back"):
        calibrate(graph, dataset(), images=1)


def test_loud_channels_are_evened_out_without_changing_an_answer(graph):
    model = tiny_graph()
    table = calibrate(graph, dataset())
    assert not table.equalisation
    tensor = next(name for name in equalisable(model))
    factors = [1.0] * len(
        next(iter(channel_maxima(TappedGraph(model), PREPROCESS.normalise(IMAGES), [tensor]).values()))
    )
    factors[0] = 2.0**-10
    loud = equalise(model, {tensor: tuple(factors)})
    save_graph(loud, graph)
    evened = calibrate(graph, dataset(), force=True)
    assert evened.equalisation[tensor][0] >= 2.0**7
    assert not calibrate(graph, dataset(), equalise=False).equalisation
    trials = {trial["name"]: trial["sqnr_db"] for trial in evened.facts["auto"]}
    assert max(trials.values()) > 15


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_with_the_same_table(graph, monkeypatch):
    real, seen, stop = TappedGraph.run, [], [0]

    def counted(self, batch):
        seen.append(len(batch))
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(TappedGraph, "run", counted)
    whole = calibrate(graph, dataset(), batch_size=4, output=graph.with_name("whole.calibration.json"))
    needed = len(seen)
    stop[0] = 2 * needed - 3  # in the second run, three batches before its last
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, dataset(), batch_size=4)
    partial = graph.with_name("model.calibration.json.partial")
    assert partial.exists()
    assert not graph.with_name("model.calibration.json").exists()
    before = len(seen)
    assert calibrate(graph, dataset(), batch_size=4) == whole
    assert not partial.exists()
    assert len(seen) - before == needed - 5  # the five batches that had been counted were not run again


def test_a_partial_result_of_other_images_is_not_taken(graph, monkeypatch):
    real = TappedGraph.run

    def failing(self, batch):
        if calls.pop() == 0:
            raise KeyboardInterrupt
        return real(self, batch)

    calls = list(range(5))
    monkeypatch.setattr(TappedGraph, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, dataset(), batch_size=4, seed=1)
    monkeypatch.undo()
    other = calibrate(graph, dataset(), batch_size=4)
    graph.with_name("model.calibration.json").unlink()
    assert calibrate(graph, dataset(), batch_size=4, resume=False) == other


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
    assert json.loads(result.stdout)["method"] == "auto"


def test_the_command_writes_a_tensorrt_cache_beside_the_table(graph, tmp_path):
    labels = tuple(map(str, range(CLASSES)))
    save_graph(tiny_graph(metadata=type(METADATA)("tiny", labels, PREPROCESS)), graph)
    cache = tmp_path / "model.cache"
    arguments = [str(graph), "--data", str(npz(tmp_path)), "--method", "minmax", "--cache", str(cache)]
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None, result.output
    found, table = read_tensorrt_cache(cache), CalibrationTable.read(tmp_path / "model.calibration.json")
    for group in Ranges(load_graph(graph)).wanted().values():
        for member in group.members:  # the cache names every tensor, the table one of a group
            assert found.ranges[member].amax == pytest.approx(table.ranges[group.name].amax)
    assert CliRunner().invoke(command, arguments).exception is None  # a cache is replaced by a cache
    cache.write_text("my notes")
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, InputError)
    assert cache.read_text() == "my notes"


def test_the_command_warns_of_classes_that_it_has_not_seen(graph, tmp_path):
    labels = tuple(map(str, range(CLASSES)))
    save_graph(tiny_graph(metadata=type(METADATA)("tiny", labels, PREPROCESS)), graph)
    result = CliRunner().invoke(command, [str(graph), "--data", str(npz(tmp_path)), "--images", "3"])
    assert result.exception is None, result.output
    assert "calibrated without any image of" in result.stderr


def test_the_command_needs_data_or_ranges_to_take_over(graph):
    result = CliRunner().invoke(command, [str(graph)])
    assert isinstance(result.exception, InputError)
    assert "--data" in result.exception.remedy
    result = CliRunner().invoke(command, [str(graph), "--from", "x.onnx", "--images", "5"])
    assert isinstance(result.exception, InputError)
    assert "--images" in result.exception.cause


def test_the_commands_methods_are_all_that_there_are():
    from calibration.methods import METHODS as ALL

    assert ("auto", *ALL) == METHODS
