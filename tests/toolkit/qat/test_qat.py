"""Quantisation-aware fine-tuning: the simulation is the INT8 graph, and its ranges go into the graph."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from calibration.as_written import AsWritten
from calibration.qdq import quantise
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from engines.errors import InputError, TableError, UnsupportedError
from export.graph import load_graph, save_graph, weights_digest
from export.onnx_export import to_onnx
from export.training import train
from tests.toolkit.qat.networks import METADATA, PREPROCESS, RECIPE, data_of, few, network, pictures
from toolkit import qat
from toolkit.data import Dataset
from toolkit.steps.build import build_engine


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return few()


@pytest.fixture(scope="module")
def trained(dataset: Dataset) -> Any:
    """(plain network, its simulated answers, ranges, table's JSON, keys before) after a training of two epochs."""
    module = network()
    keys = list(module.state_dict())
    quantised = qat.prepare(module, METADATA, dataset, images=64, threads=1)
    states: list[Any] = []
    train(
        module,
        data_of(dataset),
        PREPROCESS,
        RECIPE,
        device="cpu",
        on_epoch=lambda _, state: states.append(copy.deepcopy(state)),
    )
    with torch.no_grad():
        answers = module(torch.from_numpy(pictures(dataset))).numpy()
    ranges, whole = quantised.ranges(), copy.deepcopy(module.state_dict())
    return module, answers, ranges, quantised.finish(), keys, quantised.calibrated, states, whole


@pytest.fixture(scope="module")
def graph(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qat") / "qat.onnx"
    save_graph(to_onnx(trained[0], METADATA), path)
    return path


def test_the_trained_simulation_answers_as_the_int8_graph_of_its_table(
    trained: Any, graph: Path, dataset: Dataset
) -> None:
    _, answers, _, value, *_ = trained
    master, table = load_graph(graph), CalibrationTable.from_json(value)
    int8 = quantise(master, table, "tensorrt", remainder="fp32")
    (found,) = AsWritten(int8, "the test", 1).run(None, {"input": pictures(dataset)})
    with Simulation(master, table, threads=1) as simulation:
        exact = simulation.reference(pictures(dataset))
    noise, error = np.abs(exact - found).max(1), np.abs(answers - found).max(1)
    assert np.median(noise) > 1e-3
    np.testing.assert_array_equal(answers.argmax(1), found.argmax(1))
    # Equal but for sums in another order, which now and then put a value on the other side of an edge.
    assert np.mean(error < 1e-5 * np.abs(found).max()) > 0.9
    assert np.median(error / noise) < 1e-3


def test_ranges_were_learned_and_stand_in_the_table(trained: Any) -> None:
    _, _, ranges, value, _, before, *_ = trained
    table = CalibrationTable.from_json(value)
    assert table.method == "qat"
    learned = {name for name, found in table.ranges.items() if found.method == "qat"}
    assert learned == set(ranges)
    assert {"input", "stem.2", "pre", "concat"} & learned
    for name in learned:
        assert table.ranges[name].amax == pytest.approx(ranges[name], rel=1e-6)
    moved = [abs(ranges[name] / before.ranges[name].amax - 1) for name in ranges]
    assert max(moved) > 1e-3
    rest = set(table.ranges) - learned
    assert rest
    assert all(table.ranges[name].method != "qat" for name in rest)
    assert any(table.ranges[name].amax != before.ranges[name].amax for name in rest)
    assert table.images == 64
    assert table.data
    assert table.seen


def test_the_plain_network_is_left_with_the_keys_that_it_had(trained: Any) -> None:
    assert list(trained[0].state_dict()) == trained[4]


def test_the_table_beside_the_exported_graph_builds_an_int8_engine_without_data(trained: Any, graph: Path) -> None:
    record = {"calibration": trained[3]}
    written = qat.write_learned_table(record, load_graph(graph), graph)
    assert written == graph.with_name("qat.calibration.json")
    table = CalibrationTable.read(written)
    assert table.weights == weights_digest(load_graph(graph)) == trained[3]["digests"]["weights"]
    assert "by qat from 64 images of digits" in table.summary()
    assert table.facts["learned"].startswith(f"{len(trained[2])} of ")
    report = build_engine(graph, precision="int8", backend="onnxruntime")
    assert report.engine.is_file()
    assert report.precision == "int8"
    on_rtx = build_engine(graph, precision="int8", backend="tensorrt-rtx")
    assert {layer.type for layer in on_rtx.layers.heavy} == {"int8"}, "the engine's own layers, by its audit"
    assert qat.write_learned_table({}, load_graph(graph), graph.with_name("other.onnx")) is None
    assert qat.write_learned_table(None, load_graph(graph), graph.with_name("other.onnx")) is None
    assert not graph.with_name("other.calibration.json").exists()


def test_a_graph_that_takes_pixels_gets_the_same_table(trained: Any, graph: Path, dataset: Dataset) -> None:
    from toolkit.data import pixel_batches

    pixels = to_onnx(trained[0], METADATA, uint8_input=True)
    table = qat.learned.for_graph(CalibrationTable.from_json(trained[3]), pixels)
    int8 = quantise(pixels, table, "tensorrt", remainder="fp32")
    batch = next(iter(pixel_batches(dataset.test, PREPROCESS, 64)))[0]
    (found,) = AsWritten(int8, "the test", 1).run(None, {"input": batch})
    plain = quantise(load_graph(graph), CalibrationTable.from_json(trained[3]), "tensorrt", remainder="fp32")
    (expected,) = AsWritten(plain, "the test", 1).run(None, {"input": PREPROCESS.normalise(batch)})
    np.testing.assert_array_equal(found, expected)


def test_a_table_is_not_written_beside_a_graph_of_other_weights(trained: Any, graph: Path, tmp_path: Path) -> None:
    model = load_graph(graph)
    weight = next(item for item in model.graph.initializer if item.name == "left.1.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    with pytest.raises(TableError, match="the weights"):
        qat.write_learned_table({"calibration": trained[3]}, model, tmp_path / "qat.onnx")
    assert not list(tmp_path.iterdir())


def test_another_graphs_table_is_not_replaced_unasked(trained: Any, graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "qat.calibration.json"
    other = {**trained[3], "digests": {**trained[3]["digests"], "weights": "sha256:0"}}
    CalibrationTable.from_json(other).write(target)
    record = {"calibration": trained[3]}
    with pytest.raises(InputError, match="was not made from this source"):
        qat.write_learned_table(record, load_graph(graph), tmp_path / "qat.onnx")
    qat.write_learned_table(record, load_graph(graph), tmp_path / "qat.onnx", force=True)
    assert CalibrationTable.read(target).weights == trained[3]["digests"]["weights"]


def test_a_resumed_training_gives_what_the_uninterrupted_one_gives(trained: Any, dataset: Dataset) -> None:
    module = network()
    quantised = qat.prepare(module, METADATA, dataset, images=64, threads=1)
    train(module, data_of(dataset), PREPROCESS, RECIPE, device="cpu", resume=trained[6][0])
    assert quantised.ranges() == trained[2]
    for key, value in module.state_dict().items():
        assert torch.equal(value, trained[7][key]), key
    quantised.detach()


class Functional(nn.Module):
    """Convolves with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.conv2d(x, self.kernel).relu().mean((2, 3)))


def test_what_no_module_computes_is_refused_by_name_and_nothing_is_attached(dataset: Dataset) -> None:
    module = Functional()
    keys = list(module.state_dict())
    with pytest.raises(UnsupportedError, match=r"Conv '.*' can't be quantised while training") as caught:
        qat.prepare(module, METADATA, dataset, images=16, threads=1)
    assert "toolkit calibrate" in caught.value.remedy
    assert list(module.state_dict()) == keys


def test_a_simulation_that_misses_a_rounding_is_found_out(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.qat import sites

    def careless(*arguments: Any) -> Any:
        layers, _ = find(*arguments)
        return layers[:1], []

    find = sites.find_sites
    monkeypatch.setattr(sites, "find_sites", careless)
    module = network()
    keys = list(module.state_dict())
    with pytest.raises(UnsupportedError, match="doesn't answer as its INT8 graph does"):
        qat.prepare(module, METADATA, dataset, images=16, threads=1)
    assert list(module.state_dict()) == keys
