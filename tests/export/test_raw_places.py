"""Constants that nobody copies: where they lie in their file, and what stands for them when a graph is checked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError
from export import graph as g
from export.light import load_light
from export.raw_places import raw_places, without_raw
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


def test_raw_bytes_are_left_out_and_nothing_else() -> None:
    model = tiny_graph()
    data = model.SerializeToString()
    places = raw_places(data)
    left_out = sorted(places)[::2]
    expected = tiny_graph()
    for tensor in expected.graph.initializer:
        if tensor.name in left_out:
            tensor.ClearField("raw_data")
    assert without_raw(data, [places[name] for name in left_out]) == expected.SerializeToString()
    assert without_raw(data, []) == data


def test_a_field_whose_head_is_longer_than_it_needs_to_be_is_told() -> None:
    raw = b"\x4a\x82\x00ab"  # field 9, two bytes; 0x82 0x00 says 2 as 0x02 does
    tensor = b"\x42\x01w" + raw
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    data = b"\x3a" + bytes([len(graph)]) + graph
    places = raw_places(data)
    assert {name: data[start:end] for name, (start, end) in places.items()} == {"w": b"ab"}
    with pytest.raises(ValueError, match="head"):
        without_raw(data, places.values())


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
    for load in (g.load_graph, load_light):
        with pytest.raises(GraphError, match=r"m\.onnx"):
            load(tmp_path / "m.onnx")
