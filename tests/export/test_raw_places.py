"""Constants that nobody copies: where they lie in their file, and what stands for them when a graph is checked."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError
from export import graph as g
from export.digests import constant_digests
from export.raw_places import raw_places
from export.stand_ins import with_stand_ins
from tests.tiny import tiny_graph

VALUES = np.arange(8192, dtype=np.float32)


def graph_with(tensor: TensorProto) -> onnx.ModelProto:
    """x + w."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], "add")]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [8192])], [value("y", 1, [8192])], [tensor])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_raw_bytes_lie_where_they_are_said_to() -> None:
    model = tiny_graph()
    model.graph.initializer.add(name="typed", data_type=1, dims=[2], float_data=[1.0, 2.0])
    data = model.SerializeToString()
    places = raw_places(data)
    assert {name: data[start:end] for name, (start, end) in places.items()} == {
        tensor.name: tensor.raw_data for tensor in model.graph.initializer if tensor.name != "typed"
    }


def test_of_what_is_ambiguous_or_damaged_nothing_is_told() -> None:
    model = tiny_graph()
    twin = model.graph.initializer.add()
    twin.CopyFrom(model.graph.initializer[0])
    assert twin.name not in raw_places(model.SerializeToString())
    assert raw_places(b"\x3a\xff") == {}
    assert raw_places(b"") == {}


def test_what_is_checked_in_place_of_a_graph_is_small_and_as_valid() -> None:
    model = graph_with(numpy_helper.from_array(VALUES, "w"))
    small = with_stand_ins(model, raw_places(model.SerializeToString()))
    assert small.ByteSize() < 500
    assert [tensor.name for tensor in small.graph.initializer] == ["w"]
    onnx.checker.check_model(small)
    assert with_stand_ins(model, {}) == model


WRONG: dict[str, Callable[[TensorProto], object]] = {
    "too few bytes": lambda w: setattr(w, "raw_data", w.raw_data[:-4]),
    "values twice": lambda w: w.float_data.append(1.0),
    "a negative dimension": lambda w: w.dims.__setitem__(0, -8192),
    "no dimension left": lambda w: w.dims.__setitem__(0, 0),
    "no type": lambda w: setattr(w, "data_type", 0),
    "strings in raw bytes": lambda w: setattr(w, "data_type", TensorProto.STRING),
    "no name": lambda w: setattr(w, "name", ""),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_large_constant_that_is_wrong_is_refused_as_ever(what: str, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(VALUES, "w")
    WRONG[what](tensor)
    model = graph_with(tensor)
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        onnx.checker.check_model(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"m\.onnx"):
        g.load_graph(tmp_path / "m.onnx")


def test_weights_are_mapped_from_the_file_that_was_loaded_and_from_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    g.save_graph(tiny_graph(), path)
    assert g.map_weights(path, tiny_graph()) == {}, "nobody has loaded it"
    model = g.load_graph(path)
    found = g.map_weights(path, model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(found) == {name for name, values in constants.items() if values.dtype == np.float32}
    for name, values in found.items():
        np.testing.assert_array_equal(values, constants[name])
        assert not values.flags.writeable
        assert not values.flags.owndata
    assert constant_digests(model, found) == constant_digests(model)
    os.utime(path, ns=(1, 1))
    assert g.map_weights(path, model) == {}, "it may be another one"
    assert g.map_weights(tmp_path / "gone.onnx", model) == {}


def test_weights_beside_the_graph_are_not_mapped_from_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    g.save_graph(tiny_graph(), path, inline_limit=0)
    model = g.load_graph(path)
    large = {tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) > 4096}
    assert not large & set(g.map_weights(path, model))
