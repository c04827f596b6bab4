"""Loading, saving and reading ONNX graphs, good and damaged ones."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError, InputError
from engines.tensors import TensorSpec
from export import graph as g
from export.structure import LIGHT, light_copy, skeleton
from tests.tiny import CLASSES, METADATA, SIZE, tiny_graph


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    g.save_graph(tiny_graph(), path)
    return path


def test_a_saved_graph_loads_as_it_was(saved: Path) -> None:
    assert g.load_graph(saved) == tiny_graph()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.onnx' does not exist"):
        g.load_graph(tmp_path / "nowhere.onnx")
    with pytest.raises(InputError, match="is a folder"):
        g.load_graph(tmp_path)


NOT_ONNX = [b"", b"\0" * 64, b"<html><body>Not found</body></html>", np.random.default_rng(0).bytes(5000)]


@pytest.mark.parametrize("content", NOT_ONNX)
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"bad\.onnx' is (empty|damaged|not an ONNX)"):
        g.load_graph(path)


def test_a_graph_cut_short_anywhere_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        saved.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(GraphError):
            g.load_graph(saved)


@pytest.mark.parametrize("opset", [7, 12, 99])
def test_an_unsupported_opset_is_named_with_the_supported_ones(tmp_path: Path, opset: int) -> None:
    model = tiny_graph()
    model.opset_import[0].version = opset
    path = tmp_path / "opset.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=rf"opset {opset}; opsets 13 to {g.MAX_OPSET}"):
        g.load_graph(path)


def test_a_graph_without_outputs_or_with_a_broken_edge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    model = tiny_graph()
    del model.graph.output[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="no outputs"):
        g.load_graph(path)
    model = tiny_graph()
    model.graph.node[3].input[0] = "nothing"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="not a valid ONNX graph"):
        g.load_graph(path)


def test_a_graph_damaged_anywhere_loads_or_is_refused_in_our_words(saved: Path) -> None:
    data, rng = saved.read_bytes(), np.random.default_rng(0)
    places = [*range(1500), *range(len(data) - 3000, len(data))]  # the structure, not the weights
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.choice(places, 2):
            damaged[place] = rng.integers(256)
        saved.write_bytes(damaged)
        try:
            model = g.load_graph(saved)
            g.layer_types(model)
            g.weights_digest(model)
            g.read_metadata(model)
        except InputError:
            refused += 1
    assert 20 < refused < 150


def test_types_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    model = tiny_graph()
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    path = tmp_path / "types.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="not a valid ONNX graph"):
        g.load_graph(path)


def test_large_weights_go_beside_the_graph_and_come_back(tmp_path: Path) -> None:
    path, model = tmp_path / "tiny.onnx", tiny_graph()
    g.save_graph(model, path, inline_limit=1000)
    (data,) = tmp_path.glob("*.data")
    assert path.stat().st_size < 10_000 < data.stat().st_size
    loaded = g.load_graph(path)
    assert g.weights_digest(loaded) == g.weights_digest(model)
    assert loaded.graph.node == model.graph.node
    assert g.read_metadata(loaded) == METADATA
    x = np.ones((2, 3, SIZE, SIZE), np.float32)
    feeds = {"input": x}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(onnxruntime.InferenceSession(str(path)).run(None, feeds)[0], expected)


def test_replacing_a_graph_removes_the_weights_of_the_old_one_only(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    other = tmp_path / "tiny.onnx.notes.data"
    other.write_text("mine")
    g.save_graph(tiny_graph(seed=1), path, inline_limit=1000)
    first = set(tmp_path.glob("*.data"))
    g.save_graph(tiny_graph(seed=2), path, inline_limit=1000)
    second = set(tmp_path.glob("*.data"))
    assert len(first) == len(second) == 2
    assert first & second == {other}
    g.save_graph(tiny_graph(seed=3), path)
    assert set(tmp_path.glob("*.data")) == {other}


def test_missing_short_and_foreign_external_weights_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "tiny.onnx"
    g.save_graph(tiny_graph(), path, inline_limit=1000)
    (data,) = folder.glob("*.data")
    content = data.read_bytes()
    data.write_bytes(content[:-10])
    with pytest.raises(GraphError, match="too short for weight"):
        g.load_graph(path)
    data.unlink()
    with pytest.raises(GraphError, match=f"needs the file of weights '{data.name}'"):
        g.load_graph(path)
    (tmp_path / "secret").write_bytes(content)
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="outside its folder"):
        g.load_graph(path)


def test_an_interrupted_save_leaves_the_old_graph(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        g.save_graph(tiny_graph(seed=5), saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == ["tiny.onnx"]


def test_metadata_and_properties_travel_in_the_graph(saved: Path) -> None:
    model = g.load_graph(saved)
    assert g.read_metadata(model) == METADATA == g.peek_metadata(saved)
    assert g.read_metadata(tiny_graph(metadata=None)) is None
    g.set_property(model, "toolkit.x", "1")
    g.set_property(model, "toolkit.x", "2")
    assert g.get_property(model, "toolkit.x") == "2"
    assert [item.key for item in model.metadata_props].count("toolkit.x") == 1
    assert g.get_property(model, "toolkit.y") is None


def test_what_a_graph_was_derived_from_is_noted_and_read() -> None:
    model = tiny_graph()
    assert g.read_derived(model) is None
    derived = g.Derived("int8", "sha256:1", placement="tensorrt", table="sha256:2", remainder="fp16")
    g.write_derived(model, derived)
    assert g.read_derived(model) == derived
    g.set_property(model, g.DERIVED_KEY, '{"what": 1}')
    with pytest.raises(GraphError, match="damaged"):
        g.read_derived(model)


def test_the_digest_of_weights_depends_on_values_types_and_names_and_on_nothing_else() -> None:
    model = tiny_graph()
    digest = g.weights_digest(model)
    shuffled = tiny_graph()
    tensors = list(reversed(shuffled.graph.initializer))
    del shuffled.graph.initializer[:]
    shuffled.graph.initializer.extend(tensors)
    g.set_property(shuffled, "note", "x")
    assert g.weights_digest(shuffled) == digest
    listed = tiny_graph()  # values in a list instead of raw bytes are the same values
    bias = listed.graph.initializer[1]
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(helper.make_tensor(bias.name, TensorProto.FLOAT, values.shape, values))
    assert g.weights_digest(listed) == digest
    changed = tiny_graph()
    values = numpy_helper.to_array(changed.graph.initializer[0]).copy()
    values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
    changed.graph.initializer[0].raw_data = values.tobytes()
    assert g.weights_digest(changed) != digest
    assert g.weights_digest(tiny_graph(seed=1)) != digest


def test_inputs_and_outputs_are_specs_without_constants_that_old_graphs_list() -> None:
    model = tiny_graph()
    model.graph.input.append(helper.make_tensor_value_info("conv1.bias", TensorProto.FLOAT, [8]))
    assert g.inputs(model) == (TensorSpec("input", "float32", ("batch", 3, SIZE, SIZE)),)
    assert g.outputs(model) == (TensorSpec("logits", "float32", ("batch", CLASSES)),)


def test_every_tensor_gets_its_type_and_shape() -> None:
    specs = g.tensor_specs(tiny_graph(lrn=True))
    assert specs["lrn"] == TensorSpec("lrn", "float32", ("batch", 8, 16, 16))
    assert specs["flat"] == TensorSpec("flat", "float32", ("batch", 1024))
    assert specs["fc1.weight"].shape == (32, 1024)


def test_a_light_copy_infers_as_the_graph_does_and_a_skeleton_holds_no_weights() -> None:
    model = tiny_graph()
    light = light_copy(model)
    assert light.ByteSize() < model.ByteSize() / 5
    assert {t.name for t in light.graph.initializer} == {t.name for t in model.graph.initializer} - {
        t.name for t in model.graph.initializer if len(t.raw_data) > LIGHT
    }
    assert not skeleton(model).graph.initializer
    assert skeleton(model).graph.node == model.graph.node


def test_producers_and_consumers_follow_the_edges() -> None:
    graph = tiny_graph().graph
    assert g.producers(graph)["pool"].name == "pool"
    assert "input" not in g.producers(graph)
    assert [node.name for node in g.consumers(graph)["relu1"]] == ["pool"]
    twice = helper.make_node("Mul", ["relu1", "relu1"], ["square"], "square")
    graph.node.append(twice)
    assert [node.name for node in g.consumers(graph)["relu1"]] == ["pool", "square"]


def test_sorting_moves_only_what_is_out_of_order() -> None:
    model = tiny_graph()
    assert not g.topological_sort(model.graph)
    names = [node.name for node in model.graph.node]
    nodes = list(model.graph.node)
    shuffled = [nodes[-1], *nodes[:-1]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in shuffled]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    assert g.topological_sort(model.graph)
    assert [node.name for node in model.graph.node] == names
    model.graph.node[0].input[0] = "logits"
    with pytest.raises(GraphError, match="node 'conv1' waits"):
        g.topological_sort(model.graph)


def test_unused_nodes_and_constants_are_dropped() -> None:
    model = tiny_graph()
    assert not g.remove_unused(model.graph)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "alone"))
    model.graph.node.append(helper.make_node("Relu", ["pool"], ["unused"], "unused"))
    assert g.remove_unused(model.graph)
    assert model == tiny_graph()


def _quantised(*, activations: bool = True, weights: bool = True) -> onnx.ModelProto:
    """The tiny graph with Q/DQ at its first convolution."""
    model = tiny_graph()
    graph = model.graph
    conv = graph.node[0]
    graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "s"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "z"))
    pairs = []
    for position, wanted in ((0, activations), (1, weights)):
        if wanted:
            name = conv.input[position]
            pairs += [
                helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}.q"], f"{name}.q"),
                helper.make_node("DequantizeLinear", [f"{name}.q", "s", "z"], [f"{name}.dq"], f"{name}.dq"),
            ]
            conv.input[position] = f"{name}.dq"
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*pairs, *graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_layer_types_see_through_qdq_and_need_both_inputs_quantised() -> None:
    layers = g.layer_types(tiny_graph())
    assert [(layer.name, layer.op, layer.kind, layer.type) for layer in layers] == [
        ("conv1", "Conv", "conv", "fp32"),
        ("conv2", "Conv", "conv", "fp32"),
        ("fc1", "Gemm", "matmul", "fp32"),
        ("fc2", "Gemm", "matmul", "fp32"),
    ]
    assert [layer.type for layer in g.layer_types(_quantised())] == ["int8", "fp32", "fp32", "fp32"]
    assert g.layer_types(_quantised(weights=False))[0].type == "fp32"
    assert g.layer_types(_quantised(activations=False))[0].type == "fp32"
