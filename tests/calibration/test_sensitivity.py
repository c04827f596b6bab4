"""What each layer costs is what one sees by quantising it alone."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.figures import figures
from calibration.qdq import quantise
from calibration.sensitivity import COLUMNS, Sensitivity, sensitivity
from calibration.simulation import Simulation
from engines.errors import DataError, InputError
from export.passes.module_names import MODULE_KEY
from tests.calibration.graphs import UNSEEN, graph_of, residual_graph, run, sqnr, table_of
from tests.tiny import tiny_graph

BATCHES = [UNSEEN[:12], UNSEEN[12:]]


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)


class TestFigures:
    def test_noise_in_proportion_to_each_image_is_the_usual_ratio(self) -> None:
        rng = np.random.default_rng(0)
        reference = centred(rng.normal(size=(40, 6)))
        found = reference * (1 + 0.1 * np.where(np.arange(40) % 2, 1, -1)[:, None])
        assert figures(reference, found).sqnr_db == pytest.approx(20)
        assert figures(reference, found).sqnr_db == pytest.approx(sqnr(reference, found))

    def test_one_image_with_extreme_logits_counts_as_one(self) -> None:
        rng = np.random.default_rng(0)
        reference = centred(rng.normal(size=(40, 6)))
        reference[0] *= 1000
        lost, others_lost = reference.copy(), np.zeros_like(reference)
        lost[0], others_lost[0] = 0, reference[0]
        assert figures(reference, lost).sqnr_db > 12
        assert figures(reference, others_lost).sqnr_db < 1
        assert sqnr(reference, others_lost) > 30, "the sum over all images doesn't see that 39 of 40 are lost"

    def test_what_moves_all_classes_alike_is_no_noise(self) -> None:
        reference = np.random.default_rng(0).normal(size=(8, 3))
        found = figures(reference, reference + np.arange(8)[:, None])
        assert found.sqnr_db > 200
        assert found.flips == 0
        assert figures(reference, reference).sqnr_db == math.inf

    def test_flips_accuracy_and_nan(self) -> None:
        reference = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
        swapped = reference.copy()
        swapped[0] = swapped[0][::-1]
        found = figures(reference, swapped, labels=[1, 1, 1, 1])
        assert (found.flips, found.agreement, found.accuracy, found.images) == (1, 0.75, 0.75, 4)
        swapped[:] = np.nan
        assert figures(reference, swapped).sqnr_db == -math.inf
        assert figures(reference, swapped).kl == math.inf

    def test_shapes_that_differ_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 4\)"):
            figures(np.zeros((2, 3)), np.zeros((2, 4)))


def test_each_layer_is_measured_alone_against_fp32() -> None:
    model = residual_graph()
    table = table_of(model)
    labels = np.arange(len(UNSEEN)) % 5
    found = sensitivity(model, table, BATCHES, labels=labels)
    reference = run(model, UNSEEN)
    assert [layer.node for layer in found.layers] == ["conv1", "conv2", "conv3", "conv4", "fc"]
    assert found.images == len(UNSEEN)
    assert found.accuracy_fp32 == np.mean(reference.argmax(1) == labels)
    for layer in found.layers:
        others = [other.node for other in found.layers if other.node != layer.node]
        alone = run(quantise(model, table, "tensorrt", others, remainder="fp32"), UNSEEN, optimised=False)
        expected = figures(reference, alone, labels)
        assert layer.sqnr_db == pytest.approx(expected.sqnr_db, abs=0.05)
        assert layer.kl == pytest.approx(expected.kl, rel=0.02, abs=1e-9)
        assert (layer.flips, layer.accuracy) == (expected.flips, expected.accuracy)
    together = run(quantise(model, table, "tensorrt", remainder="fp32"), UNSEEN, optimised=False)
    assert found.all_quantised.sqnr_db == pytest.approx(figures(reference, together).sqnr_db, abs=0.05)
    assert sum(layer.noise for layer in found.layers) == pytest.approx(found.all_quantised.noise, rel=1)


def test_layers_are_named_by_their_module() -> None:
    model = tiny_graph()
    model.graph.node[0].metadata_props.add(key=MODULE_KEY, value="features.0")
    found = sensitivity(model, table_of(model), [UNSEEN[:4]])
    assert found.layers[0].module == "features.0"
    assert found.layers[1].module is None
    assert [layer.op for layer in found.layers] == ["Conv", "Conv", "Gemm", "Gemm"]
    assert found.accuracy_fp32 is None


def test_the_worst_layer_comes_first_and_all_of_them_last() -> None:
    model = tiny_graph()
    table = table_of(model)
    ruined = replace(table.ranges["pool" if "pool" in table.ranges else "relu1"], amax=1e-3)
    table = replace(table, ranges={**table.ranges, "relu1": ruined})
    found = sensitivity(model, table, BATCHES)
    rows = found.rows()
    assert found.worst_first()[0].node == rows[0][0] == "conv2"
    assert rows[0][3] == f"{found.layers[1].sqnr_db:.1f}"
    assert rows[-1][0] == "all quantised"
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert found.layers[1].sqnr_db < 3
    assert min(found.layers[0].sqnr_db, found.layers[2].sqnr_db) > 20


def test_it_survives_json_even_where_nothing_differs() -> None:
    weight = np.zeros((5, 3, 16, 16), np.float32)
    weight[0, 0, 0, 0] = 1
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "dead"),
        helper.make_node("Conv", ["c", "zero"], ["d"], "zero"),
        helper.make_node("Flatten", ["d"], ["logits"], "flatten"),
    ]
    model = graph_of(nodes, {"w": weight, "zero": np.zeros((5, 5, 1, 1), np.float32)})
    found = sensitivity(model, table_of(model), BATCHES, labels=np.zeros(len(UNSEEN), int))
    assert found.layers[0].sqnr_db == math.inf
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Sensitivity.from_json(json.loads(text)) == found


@pytest.mark.parametrize("damage", [{"format": "x"}, {"layers": [{}]}, {"images": None}, {"all_quantised": 3}])
def test_a_damaged_record_is_refused(damage: dict[str, object]) -> None:
    model = tiny_graph()
    record = sensitivity(model, table_of(model), BATCHES).to_json()
    with pytest.raises(InputError, match="sensitivities"):
        Sensitivity.from_json({**record, **damage})


def test_what_the_table_keeps_is_no_layer() -> None:
    model = tiny_graph()
    found = sensitivity(model, replace(table_of(model), keep=("conv1",)), BATCHES)
    assert [layer.node for layer in found.layers] == ["conv2", "fc1", "fc2"]


def test_a_simulation_is_left_open_for_its_owner() -> None:
    model = tiny_graph()
    with Simulation(model, table_of(model)) as simulation:
        first = sensitivity(simulation, None, BATCHES)
        assert sensitivity(simulation, None, BATCHES) == first


def test_progress_tells_of_every_image_of_every_pass() -> None:
    class Listener:
        total, done, ended = 0, 0, False

        def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
            self.total = total or 0

        def advance(self, steps: int = 1, **facts: object) -> None:
            self.done += steps

        def end(self) -> None:
            self.ended = True

    model, listener = tiny_graph(), Listener()
    sensitivity(model, table_of(model), BATCHES, progress=listener)
    assert listener.done == listener.total == len(UNSEEN) * 6
    assert listener.ended


def test_nonsense_is_refused() -> None:
    model: onnx.ModelProto = tiny_graph()
    table = table_of(model)
    with pytest.raises(InputError, match="only once"):
        sensitivity(model, table, iter(BATCHES))
    with pytest.raises(DataError, match="no images"):
        sensitivity(model, table, [])
    with pytest.raises(DataError, match="3 labels for 32 images"):
        sensitivity(model, table, BATCHES, labels=[1, 2, 3])
    with pytest.raises(InputError, match="table"):
        sensitivity(model, None, BATCHES)
