"""What is no ONNX file, is damaged or can't become a master graph is refused with the reason."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError, ToolkitError
from export.foreign.importing import import_foreign
from export.foreign.judging import judge
from export.foreign.reading import read_foreign
from export.sources.description import Description
from tests.export.foreign.graphs import Value, convolution, graph, node, same, saved, weight
from tests.tiny import tiny_graph

PICTURES = weight(7, 3, 8, 8, seed=5) * 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x08\x00\x00\x00ORTM\x00", "ONNX Runtime's own format"),
        (b"ir_version: 8\ngraph { }", "written as text"),
        (b"<\n ir_version: 8\n>", "written as text"),
        (b'{"irVersion": "8"}', "is JSON"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\xff\xfe\xfd garbage that is no protobuf", "damaged, or not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_refused_with_what_it_is(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=reason) as caught:
        import_foreign(path)
    assert caught.value.remedy


def test_a_file_cut_short_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    whole = convolution().SerializeToString()
    for part in range(20):
        path = tmp_path / "net.onnx"
        path.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(ToolkitError):
            import_foreign(path)


def external(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(convolution(), str(path), save_as_external_data=True, location="net.data", size_threshold=64)
    return path


def test_external_weights_are_pulled_in(tmp_path: Path) -> None:
    path = external(tmp_path)
    imported = import_foreign(path)
    assert all(item.data_location == TensorProto.DEFAULT for item in imported.model.graph.initializer)
    same(imported.model, path, {"x": PICTURES})


def test_missing_short_and_stray_files_of_weights_are_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[:-200])
    with pytest.raises(GraphError, match=r"net\.data' is too short"):
        import_foreign(path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(GraphError, match=r"needs the file of weights 'net\.data'"):
        import_foreign(path)
    model = onnx.load(str(path), load_external_data=False)
    (tmp_path / "inner").mkdir()
    (tmp_path / "net.data").write_bytes(data)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            item.value = "../net.data" if item.key == "location" else item.value
    with pytest.raises(GraphError, match=r"outside its folder \('\.\./net\.data'\)"):
        import_foreign(saved(model, tmp_path / "inner"))


def test_weights_listed_as_inputs_by_old_exporters_are_inputs_no_more(tmp_path: Path) -> None:
    model = convolution(9, ir=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    assert [value.name for value in imported.model.graph.input] == ["x"]
    assert "inputs: 5 weights no longer listed among them" in imported.changes
    same(imported.model, path, {"x": PICTURES})


def test_functions_are_written_out_and_sparse_weights_made_dense(tmp_path: Path) -> None:
    model = convolution(18)
    dense = weight(4, 3, 3, 3) * (np.arange(108).reshape(4, 3, 3, 3) % 5 == 0)
    (index,) = [place for place, item in enumerate(model.graph.initializer) if item.name == "w"]
    del model.graph.initializer[index]
    places = np.flatnonzero(dense)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(dense.reshape(-1)[places], "w"), numpy_helper.from_array(places), [4, 3, 3, 3]
    )
    model.graph.sparse_initializer.append(sparse)
    body = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("own", "Silu", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].CopyFrom(helper.make_node("Silu", ["c"], ["r"], "silu", domain="own"))
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    assert not imported.model.functions
    assert {"Sigmoid", "Mul"} < {item.op_type for item in imported.model.graph.node}
    same(imported.model, path, {"x": PICTURES})


def test_a_graph_that_onnx_runtime_optimised_is_refused_with_its_fused_operators(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(convolution().SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(GraphError, match=r"com\.microsoft::FusedConv") as caught:
        import_foreign(tmp_path / "fused.onnx")
    assert "without ONNX Runtime's optimisation" in caught.value.remedy


INT8 = TensorProto.INT8


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([helper.make_node("Dream", ["x"], ["y"], "d", domain="some.plugin")], "some.plugin::Dream"),
        ([node("RandomNormalLike", ["x"], ["n"], name="dice"), node("Add", ["x", "n"], ["y"])], "random .*'dice'"),
        ([node("Dropout", ["x", "half", "yes"], ["y"], name="drop")], "training mode: node 'drop'"),
        ([node("QuantizeLinear", ["x", "half"], ["q"]), node("DequantizeLinear", ["q", "half"], ["y"])], "quantised"),
        (
            [node("SequenceConstruct", ["x"], ["s"], name="s"), node("ConcatFromSequence", ["s"], ["y"], axis=0)],
            "seq",
        ),
    ],
)
def test_what_cannot_become_a_master_graph_is_refused(
    nodes: list[onnx.NodeProto], reason: str, tmp_path: Path
) -> None:
    ends: list[Value] = [("x", ["N", 4]), ("y", ["N", 4])]
    model = graph(nodes, ends[:1], ends[1:], {"half": np.float32(0.5), "yes": np.array(True)})
    model.opset_import.append(helper.make_opsetid("some.plugin", 1))
    with pytest.raises(GraphError, match=reason) as caught:
        import_foreign(saved(model, tmp_path))
    assert caught.value.remedy


def choosing(
    condition: list[onnx.NodeProto], constants: dict[str, "np.ndarray[object, np.dtype[np.bool_]]"]
) -> onnx.ModelProto:
    """A graph with an If between Relu and Neg, as squeeze() is traced."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = {
        "then_branch": helper.make_graph([node("Relu", ["g"], ["o"])], "then", [], [out]),
        "else_branch": helper.make_graph([node("Neg", ["g"], ["o"])], "else", [], [out]),
    }
    nodes = [
        node("Gemm", ["x", "w"], ["g"]),
        *condition,
        helper.make_node("If", ["cond"], ["y"], "decide", **branches),
    ]
    return graph(nodes, [("x", ["N", 4])], [("y", ["N", 3])], {"w": weight(4, 3), **constants})


@pytest.mark.parametrize("taken", [True, False])
def test_a_decision_of_constants_is_taken_once_and_one_of_data_refused(taken: bool, tmp_path: Path) -> None:
    size = node("Gather", ["shape", "one"], ["columns"])
    shape = [node("Shape", ["g"], ["shape"]), size, node("Equal", ["columns", "wanted"], ["cond"])]
    wanted = np.array(3 if taken else 4, np.int64)
    path = saved(choosing(shape, {"one": np.array(1), "wanted": wanted}), tmp_path)  # type: ignore[dict-item]
    imported = import_foreign(path)
    assert [item.op_type for item in imported.model.graph.node] == ["Gemm", "Relu" if taken else "Neg"]
    same(imported.model, path, {"x": weight(7, 4)})
    data = [
        node("ReduceMax", ["g"], ["most"], keepdims=0),
        node("Greater", ["most", "zero"], ["cond"]),
    ]
    with pytest.raises(GraphError, match="decides at run time what it computes: node 'decide'"):
        import_foreign(saved(choosing(data, {"zero": np.float32(0)}), tmp_path))  # type: ignore[dict-item]


def test_a_graph_of_this_toolkit_is_not_imported_again(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="made by this toolkit"):
        import_foreign(saved(tiny_graph(), tmp_path))


def test_the_graph_of_training_is_left_out(tmp_path: Path) -> None:
    model = convolution()
    model.training_info.add().algorithm.CopyFrom(model.graph)
    changes: list[str] = []
    assert not read_foreign(saved(model, tmp_path), changes).training_info
    assert changes == ["training: 1 training graphs left out"]


def test_damaged_bytes_are_refused_or_give_a_graph_that_computes_the_same(tmp_path: Path) -> None:
    whole = convolution(11, batch=2, flat=(2, 64), ir=6).SerializeToString()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        damaged[int(rng.integers(400))] = int(rng.integers(256))
        path = tmp_path / "net.onnx"
        path.write_bytes(bytes(damaged))
        try:
            imported = import_foreign(path)
            result = judge(imported.trial, imported.model, {"random": imported.feeds(7)}, (1, 2, 7))
        except ToolkitError:
            refused += 1
            continue
        assert result.passed
    assert 10 < refused < 60


def test_operators_that_only_a_left_out_output_needs_do_no_harm(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node.append(helper.make_node("LabelEncoder", ["y"], ["label"], "encode", domain="ai.onnx.ml"))
    model.graph.node[-1].attribute.extend(
        [helper.make_attribute("keys_floats", [0.0]), helper.make_attribute("values_floats", [1.0])]
    )
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.FLOAT, ["N", 5]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    path = saved(model, tmp_path)
    with pytest.raises(GraphError, match=r"ai\.onnx\.ml::LabelEncoder") as caught:
        import_foreign(path)
    assert "--outputs" in caught.value.remedy
    imported = import_foreign(path, Description(outputs=("y",)))
    assert [value.name for value in imported.model.graph.output] == ["y"]
