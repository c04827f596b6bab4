"""A table follows its network to an export with other names."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from calibration.qdq import quantise
from calibration.ranges import Ranges
from calibration.rename import fit, rename, sign
from calibration.table import CalibrationTable
from engines.errors import TableError
from export.graph import weights_digest
from tests.calibration.graphs import IMAGES, UNSEEN, residual_graph, run, table_of
from tests.calibration.renaming import copy_of, give, insert, node_of, otherwise_exported, renamed, values_of
from tests.tiny import tiny_graph


def scales(model: onnx.ModelProto) -> list[float]:
    """The scales of activations in graph order, each once."""
    found = [values_of(model, node.input[1]).item() for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return list(dict.fromkeys(found))


def signed(model: onnx.ModelProto, **changes) -> CalibrationTable:
    return sign(replace(table_of(model), **changes), model)


@pytest.mark.parametrize(
    ("model", "other"),
    [
        (tiny_graph(lrn=True), renamed(tiny_graph(lrn=True))),
        (tiny_graph(), otherwise_exported(tiny_graph())),
        (residual_graph(), renamed(residual_graph())),
    ],
    ids=["names", "another exporter", "branches"],
)
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_renamed_graph_is_quantised_exactly_as_the_first(model, other, target):
    table = signed(model)
    moved = rename(table, other)
    assert moved.weights == weights_digest(other) != table.weights
    assert list(moved.ranges) == list(Ranges(other).wanted())
    first, second = (quantise(graph, found, target) for graph, found in ((model, table), (other, moved)))
    assert scales(first) == scales(second)
    # Another order of the same sums may flip a rounding here and there; other ranges would change every answer.
    np.testing.assert_array_less((run(first, UNSEEN) != run(second, UNSEEN)).mean(), 0.1)


def test_the_new_table_is_the_one_that_calibrating_the_new_graph_gives():
    model = tiny_graph()
    other = renamed(model)
    moved, measured = rename(signed(model), other), signed(other)
    assert moved == measured


def test_a_table_survives_a_second_renaming_and_the_disk(tmp_path):
    model = residual_graph()
    table = signed(model, keep=("conv2",))
    once = rename(table, renamed(model, "a/"))
    once.write(tmp_path / "t.calibration.json")
    back = rename(CalibrationTable.read(tmp_path / "t.calibration.json"), model)
    assert back == table


def test_what_else_the_table_decides_is_renamed_with_the_ranges():
    model = tiny_graph()
    table = signed(
        model, keep=("fc1",), equalisation={"relu2": tuple([2.0] * 16)}, biases={"conv2": tuple(np.arange(16.0))}
    )
    moved = rename(table, renamed(model, "x."))
    assert moved.keep == ("x.1cf",)
    assert moved.equalisation == {"x.2uler": tuple([2.0] * 16)}
    assert moved.biases == {"x.2vnoc": tuple(np.arange(16.0))}


def test_a_repeated_branch_gets_one_range_for_both():
    """The new export computes a branch twice that the first computed once: equal values, equal range."""
    model = residual_graph()
    table = signed(model)
    other = copy_of(model)
    conv = copy_of(other).graph.node[0]
    conv.name, conv.output[0] = "conv1 again", "c1 again"
    insert(other, "conv2", conv, onnx.helper.make_node("Relu", ["c1 again"], ["again"], "relu1 again"))
    node_of(other, "add").input[1] = "again"
    np.testing.assert_array_equal(run(model, IMAGES[:2]), run(other, IMAGES[:2]))
    assert rename(table, other).ranges["again"].amax == table.ranges["r1"].amax


def test_other_weights_are_refused_as_stale():
    table = signed(tiny_graph())
    with pytest.raises(TableError, match="stale: the weights changed"):
        rename(table, tiny_graph(seed=1))
    last = tiny_graph()  # the last layer's weights come after every range
    give(last, **{"fc2.weight": values_of(last, "fc2.weight") * np.float32(1.01)})
    with pytest.raises(TableError, match="stale: the weights changed"):
        rename(table, last)


def test_another_structure_with_the_same_weights_is_refused_and_the_first_tensor_named():
    model, other = tiny_graph(), tiny_graph()
    node_of(other, "relu1").op_type = "Sigmoid"
    with pytest.raises(TableError, match=r"no range for tensor 'relu1' \(and 2 more\)") as caught:
        rename(signed(model), other)
    assert caught.value.remedy


def test_a_kept_node_that_is_not_there_is_named():
    model = tiny_graph()
    table = replace(signed(model), keep=("conv9",))
    with pytest.raises(TableError, match="node 'conv9' isn't in this graph"):
        rename(table, renamed(model))


def test_a_table_that_is_not_signed_can_not_be_renamed():
    model = tiny_graph()
    with pytest.raises(TableError, match="doesn't tell what its names stand for"):
        rename(table_of(model), renamed(model))


def test_a_table_is_fitted_only_where_the_weights_are_the_same():
    model = tiny_graph()
    table, other = signed(model), renamed(model)
    assert fit(table, model) is table
    assert fit(table, other) == rename(table, other)
    stale = tiny_graph(seed=1)
    assert fit(table, stale) is table  # which check_table refuses
    unsigned = table_of(model)
    assert fit(unsigned, other) is unsigned
