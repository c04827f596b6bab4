"""The fewest layers are kept back that hold an accuracy budget."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.budget import GIVEN_BACK, WIDTH, BudgetChoice, fewest_kept
from calibration.sensitivity import Sensitivity, logits, sensitivity
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from engines.errors import DataError, InputError
from export.metrics import accuracy
from tests.calibration.graphs import IMAGES, graph_of, run, table_of
from tests.tiny import tiny_graph

SEARCH = [IMAGES[start : start + 64] for start in range(0, 256, 64)]
ALL = np.concatenate(SEARCH)


def chain(layers: int = 6) -> onnx.ModelProto:
    """Convolutions one after another, each with a range of its own."""
    rng = np.random.default_rng(1)
    nodes, constants, tensor = [], {}, "input"
    for index in range(layers):
        width = 3 if index == 0 else 8
        constants[f"w{index}"] = rng.normal(0, (2 / (width * 9)) ** 0.5, (8, width, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], f"conv{index}"))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        tensor = f"r{index}"
    constants["w"] = rng.normal(0, 0.1, (5, 8 * (16 - 2 * layers) ** 2)).astype(np.float32)
    nodes.append(helper.make_node("Flatten", [tensor], ["flat"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["flat", "w"], ["logits"], "fc", transB=1))
    return graph_of(nodes, constants)


def spoilt(table: CalibrationTable, *tensors: str, factor: float = 1e4) -> CalibrationTable:
    """Ranges so wide that nothing of these tensors is left."""
    wide = {name: replace(table.ranges[name], amax=table.ranges[name].amax * factor) for name in tensors}
    return replace(table, ranges={**table.ranges, **wide})


def search(model: onnx.ModelProto, table: CalibrationTable, max_drop: float) -> tuple[BudgetChoice, Sensitivity]:
    labels = run(model, ALL).argmax(1)
    with Simulation(model, table) as simulation:
        ranking = sensitivity(simulation, None, SEARCH, labels=labels)
        return fewest_kept(simulation, None, SEARCH, labels, max_drop, ranking=ranking), ranking


def test_nothing_is_kept_where_nothing_needs_it() -> None:
    model = tiny_graph()
    found, _ = search(model, table_of(model), 5.0)
    assert found.holds
    assert found.keep == ()
    assert found.evaluated == len(found.tried) == 1
    assert found.accuracy_fp32 == 1.0
    assert found.drop == pytest.approx(100 * (1 - found.accuracy_kept))


def test_the_one_layer_with_a_hopeless_range_is_kept() -> None:
    model = tiny_graph()
    found, _ = search(model, spoilt(table_of(model), "relu2"), 2.0)
    assert found.holds
    assert found.keep == ("fc1",)
    assert found.drop <= 2.0
    assert found.tried[0].keep == ()
    assert found.tried[0].accuracy < 0.9


def test_two_hopeless_layers_are_kept_and_no_set_that_is_as_small_or_smaller_is_missed() -> None:
    model = chain(4)
    table = spoilt(table_of(model), "r0", "r2")
    found, _ = search(model, table, 2.0)
    assert found.keep == ("conv1", "conv3")
    labels = run(model, ALL).argmax(1)
    with Simulation(model, table) as simulation:
        for keep in combinations(simulation.layers, 1):
            assert 100 * (1 - accuracy(logits(simulation, SEARCH, keep=keep), labels)) > 2.0


def test_of_many_hopeless_layers_none_is_kept_for_nothing() -> None:
    model = chain()
    table = spoilt(table_of(model), "r0", "r1", "r3", "r4")
    found, _ = search(model, table, 2.0)
    assert found.holds
    assert found.keep == ("conv1", "conv2", "conv4", "conv5")
    assert found.evaluated <= 1 + 3 * WIDTH + 3 + GIVEN_BACK


def test_a_budget_that_cannot_be_held_is_said_so_at_once() -> None:
    model = chain(3)
    table = spoilt(table_of(model), "input", "r0", "r1", "r2")
    found, _ = search(model, table, 0.5)
    assert not found.holds
    assert found.drop > 0.5
    assert found.evaluated <= 1 + WIDTH
    assert found.accuracy_kept == max(attempt.accuracy for attempt in found.tried)
    assert all(len(attempt.keep) < 4 for attempt in found.tried), "a graph with nothing quantised is no answer"


def test_the_search_repeats_itself() -> None:
    model = chain(4)
    table = spoilt(table_of(model), "r0", "r2")
    assert search(model, table, 2.0) == search(model, table, 2.0)


def test_what_the_table_keeps_stays_kept() -> None:
    model = chain(4)
    table = replace(spoilt(table_of(model), "r0", "r2"), keep=("conv1",))
    found, ranking = search(model, table, 2.0)
    assert found.keep == ("conv3",)
    assert "conv1" not in {layer.node for layer in ranking.layers}


def test_nonsense_is_refused() -> None:
    model = tiny_graph()
    table = table_of(model)
    labels = np.zeros(len(ALL), int)
    with Simulation(model, table) as simulation:
        ranking = sensitivity(simulation, None, SEARCH[:1])
        with pytest.raises(InputError, match="no budget"):
            fewest_kept(simulation, None, SEARCH, labels, -1.0, ranking=ranking)
        with pytest.raises(InputError, match="no budget"):
            fewest_kept(simulation, None, SEARCH, labels, float("nan"), ranking=ranking)
        with pytest.raises(InputError, match="only once"):
            fewest_kept(simulation, None, iter(SEARCH), labels, 1.0, ranking=ranking)
        with pytest.raises(DataError, match="one label an image"):
            fewest_kept(simulation, None, SEARCH, labels[1:], 1.0, ranking=ranking)
        other = replace(ranking, layers=ranking.layers[:2])
        with pytest.raises(InputError, match="differ in layer 'fc1'"):
            fewest_kept(simulation, None, SEARCH, labels, 1.0, ranking=other)
