"""A graph whose weights stay in its file: the same as the loaded one, checked as strictly."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.errors import GraphError, InputError
from engines.files import digest_file
from export import graph as g
from export.digests import constant_digests
from export.light import SplitGraph, is_stub, load_light, save_light, stub, values_of
from export.raw_places import with_raw
from tests.export.test_raw_places import graph_with
from tests.tiny import tiny_graph


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "m.onnx"
    g.save_graph(tiny_graph(), found)
    return found


def test_a_light_graph_is_the_loaded_one(path: Path) -> None:
    light, model = load_light(path), g.load_graph(path)
    assert light.whole() == model
    assert light.whole().SerializeToString() == model.SerializeToString() == path.read_bytes()
    assert light.model.ByteSize() < model.ByteSize() / 2
    stubs = [tensor.name for tensor in light.model.graph.initializer if is_stub(tensor)]
    assert stubs == list(light.arrays) == [w.name for w in model.graph.initializer if len(w.raw_data) > 4096]
    for tensor in model.graph.initializer:
        if tensor.name in light.arrays:
            values = light.arrays[tensor.name]
            np.testing.assert_array_equal(values, numpy_helper.to_array(tensor))
            assert not values.flags.writeable
            assert not values.flags.owndata
    assert constant_digests(light.model, light.arrays) == constant_digests(model)


def test_a_graph_without_stubs_is_whole_itself(path: Path) -> None:
    model = tiny_graph()
    assert SplitGraph(model).whole() is model


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_only_float32_is_mapped(dtype: type, tmp_path: Path) -> None:
    values = np.arange(8192).astype(dtype)
    model = graph_with(numpy_helper.from_array(values, "w"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = model.graph.initializer[0].data_type
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    light = load_light(tmp_path / "m.onnx")
    assert not light.arrays
    assert light.model == model


def test_weights_beside_the_graph_are_read_into_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    g.save_graph(tiny_graph(), path, inline_limit=0)
    light, model = load_light(path), g.load_graph(path)
    large = {tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) > 4096}
    assert large
    assert not large & set(light.arrays)
    assert light.whole() == model


def test_what_cannot_be_loaded_is_told_as_ever(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    bad = tmp_path / "bad.onnx"
    for content in (b"", data[: len(data) // 2], b"\x3a\xff", b"no graph at all", data[:20]):
        bad.write_bytes(content)
        with pytest.raises(GraphError) as one:
            g.load_graph(bad)
        with pytest.raises(GraphError) as other:
            load_light(bad)
        assert (one.value.cause, one.value.remedy) == (other.value.cause, other.value.remedy)
    for missing in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(InputError, match=missing.name):
            load_light(missing)


def test_a_stub_stands_for_its_array() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = stub("w", values.dtype, values.shape)
    assert is_stub(tensor)
    assert values_of(tensor, {"w": values}) is values
    model = onnx.ModelProto()
    model.graph.initializer.append(tensor)
    (made,) = SplitGraph(model, {"w": values}).whole().graph.initializer
    assert made == numpy_helper.from_array(values, "w")
    other = numpy_helper.from_array(values + 1, "w")
    np.testing.assert_array_equal(values_of(other, {"w": values}), values + 1)


def test_a_light_graph_is_saved_as_the_whole_one_would_be(path: Path, tmp_path: Path) -> None:
    light = load_light(path)
    first = next(iter(light.arrays))
    light.model.graph.doc_string = "written before and after the constants"
    for tensor in light.model.graph.initializer:
        tensor.doc_string = "behind its raw bytes" if tensor.name == first else ""
    g.save_graph(light.whole(), path)
    again = tmp_path / "again.onnx"
    digest = save_light(light, again)
    assert again.read_bytes() == path.read_bytes()
    assert digest == digest_file(again)
    assert save_light(SplitGraph(light.whole()), again) == digest == digest_file(again)


def test_weights_that_lie_in_any_order_are_saved_in_theirs(tmp_path: Path) -> None:
    values = np.arange(12000, dtype=np.float32).reshape(100, 120).T
    light = SplitGraph(graph_with(stub("w", values.dtype, values.shape)), {"w": values})
    save_light(light, tmp_path / "m.onnx")
    (saved,) = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(saved), values)


def test_what_replaces_a_graph_with_weights_beside_it_removes_them(path: Path) -> None:
    g.save_graph(tiny_graph(), path, inline_limit=0)
    assert len(list(path.parent.iterdir())) == 2
    light = load_light(path)
    save_light(light, path)
    assert list(path.parent.iterdir()) == [path]
    assert g.load_graph(path) == light.whole()


def test_a_light_graph_that_cannot_be_written_leaves_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone"):
        save_light(load_light(path), tmp_path / "gone" / "m.onnx")


def test_raw_bytes_are_put_only_where_there_are_none() -> None:
    model = tiny_graph()
    name = model.graph.initializer[0].name
    with pytest.raises(ValueError, match="isn't empty"):
        with_raw(model.SerializeToString(), {name: memoryview(b"x")})
    with pytest.raises(ValueError, match="isn't there"):
        with_raw(model.SerializeToString(), {"nobody": memoryview(b"x")})
