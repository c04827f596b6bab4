"""A static batch is freed, or refused with the node that holds it; each sample gets its own answer."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engines.errors import GraphError
from export.foreign.importing import Imported, import_foreign
from export.foreign.judging import judge
from export.foreign.settling import settle_shapes
from export.graph import outputs
from tests.export.foreign.graphs import convolution, graph, node, same, saved, weight

PICTURES = weight(7, 3, 8, 8, seed=5) * 8


def judged(imported: Imported, count: int = 7) -> bool:
    own = imported.trial.takes.batch or 1
    return judge(imported.trial, imported.model, {"random": imported.feeds(max(count, own))}, (1, 2, count)).passed


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("flat", [(-1, 64), (0, -1), "baked", "baked with -1"])
def test_a_static_batch_in_a_reshape_is_freed(batch: int, flat: "tuple[int, int] | str", tmp_path: Path) -> None:
    shape = {"baked": (batch, 64), "baked with -1": (batch, -1)}.get(str(flat), flat)
    path = saved(convolution(batch=batch, flat=shape), tmp_path)  # type: ignore[arg-type]
    imported = import_foreign(path)
    assert [spec.shape for spec in outputs(imported.model)] == [("batch", 5)]
    same(imported.model, path, {"x": PICTURES}, batch)
    assert judged(imported)


def tokens(batch: int) -> onnx.ModelProto:
    """A transformer's beginning: a class token beside the patches, positions for each row, attention by reshapes."""
    width, count = 8, 4
    constants = {
        "w": weight(width, 3, 4, 4),
        "to_rows": np.array([batch, width, count], np.int64),
        "token": np.repeat(weight(1, 1, width, seed=1), batch, 0),
        "position": np.repeat(weight(1, count + 1, width, seed=2), batch, 0),
        "merge": np.array([batch * (count + 1), width], np.int64),
        "qkv": weight(width, width, seed=3),
        "split": np.array([batch, count + 1, 2, width // 2], np.int64),
        "join": np.array([batch, count + 1, width], np.int64),
        "first": np.array(0, np.int64),
        "head": weight(3, width, seed=4),
    }
    nodes = [
        node("Conv", ["x", "w"], ["patches"], strides=[4, 4], name="patches"),
        node("Reshape", ["patches", "to_rows"], ["rows"], name="rows"),
        node("Transpose", ["rows"], ["seq"], perm=[0, 2, 1], name="seq"),
        node("Concat", ["token", "seq"], ["with_token"], axis=1, name="with_token"),
        node("Add", ["with_token", "position"], ["placed"], name="placed"),
        node("Reshape", ["placed", "merge"], ["merged"], name="merge"),
        node("MatMul", ["merged", "qkv"], ["projected"], name="project"),
        node("Reshape", ["projected", "split"], ["heads"], name="split"),
        node("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3], name="turned"),
        node("Softmax", ["turned"], ["soft"], axis=-1, name="soft"),
        node("Transpose", ["soft"], ["back"], perm=[0, 2, 1, 3], name="back"),
        node("Reshape", ["back", "join"], ["joined"], name="join"),
        node("Gather", ["joined", "first"], ["class"], axis=1, name="class"),
        node("Gemm", ["class", "head"], ["y"], transB=1, name="head"),
    ]
    return graph(nodes, [("x", [batch, 3, 8, 8])], [("y", [batch, 3])], constants)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_class_token_positions_and_attention_at_a_static_batch_are_freed(batch: int, tmp_path: Path) -> None:
    path = saved(tokens(batch), tmp_path)
    imported = import_foreign(path)
    same(imported.model, path, {"x": PICTURES}, batch)
    assert judged(imported)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("zeros", [True, False])
def test_initial_states_of_an_lstm_follow_the_batch(batch: int, zeros: bool, tmp_path: Path) -> None:
    state = np.zeros((1, batch, 4), np.float32) if zeros else np.repeat(weight(1, 1, 4, seed=4), batch, 1)
    constants = {"w": weight(1, 16, 3), "r": weight(1, 16, 4, seed=1), "h": state, "c": state, "first": np.array([0])}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r", "", "", "h", "c"], ["", "last", ""], hidden_size=4),
        node("Squeeze", ["last", "first"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", [batch, 5, 3])], [("y", [batch, 4])], constants), tmp_path)
    imported = import_foreign(path)
    assert imported.metadata.pictures is None
    assert [str(spec) for spec in imported.metadata.inputs] == ["x: float32[batch, 5, 3]"]
    same(imported.model, path, {"x": weight(7, 5, 3, seed=5)}, batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_resize_to_sizes_and_expand_follow_the_batch(batch: int, tmp_path: Path) -> None:
    constants = {
        "w": weight(2, 3, 3, 3),
        "sizes": np.array([batch, 2, 12, 12], np.int64),
        "wide": np.array([batch, 2, 12, 12], np.int64),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Resize", ["c", "", "", "sizes"], ["r"], mode="linear"),
        node("Expand", ["r", "wide"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", [batch, 3, 8, 8])], [("y", [batch, 2, 12, 12])], constants), tmp_path)
    imported = import_foreign(path)
    assert imported.metadata.scores == "none"
    same(imported.model, path, {"x": PICTURES}, batch)


def test_an_lstm_of_pytorchs_with_a_static_batch_is_freed(tmp_path: Path) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(5, 7, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.cells(x)[0]
            return found[:, -1]

    torch.manual_seed(0)
    path, given = tmp_path / "net.onnx", torch.randn(3, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Last().eval(), (given,), str(path), dynamo=False, opset_version=14, input_names=["x"])
    imported = import_foreign(path)
    same(imported.model, path, {"x": given.numpy()}, 3)
    assert judged(imported)


def test_a_batch_that_is_baked_though_it_is_declared_free_is_freed(tmp_path: Path) -> None:
    path = saved(convolution(batch="N", flat=(1, 64)), tmp_path)
    imported = import_foreign(path)
    assert any("freed at" in line for line in imported.changes)
    same(imported.model, path, {"x": PICTURES}, 1)


def test_a_batch_that_cannot_be_freed_is_refused_with_the_node(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Slice", ["c", "zero", "one", "zero"], ["y"], name="first_only"),
    ]
    constants = {"w": weight(2, 3, 3, 3), "zero": np.array([0]), "one": np.array([1])}
    model = graph(nodes, [("x", [1, 3, 8, 8])], [("y", [1, 2, 6, 6])], constants)
    with pytest.raises(GraphError, match=r"batch of 1 is baked into .*first_only") as caught:
        import_foreign(saved(model, tmp_path))
    assert "dynamic batch" in caught.value.remedy


def test_samples_that_depend_on_each_other_are_refused_when_they_are_compared(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Softmax", ["c"], ["y"], axis=0, name="across"),
    ]
    model = graph(nodes, [("x", [1, 3, 8, 8])], [("y", [1, 2, 6, 6])], {"w": weight(2, 3, 3, 3)})
    imported = import_foreign(saved(model, tmp_path))
    with pytest.raises(GraphError, match="samples depend on each other"):
        judged(imported)


def test_of_a_free_batch_whose_samples_depend_on_each_other_the_export_is_not_blamed(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"], name="centred")]
    imported = import_foreign(saved(graph(nodes, [("x", ["N", 6])], [("y", ["N", 6])], {}), tmp_path))
    with pytest.raises(GraphError, match="samples depend on each other") as caught:
        judged(imported)
    assert "baked" not in caught.value.cause
    assert "mixes the samples" in caught.value.remedy


def test_shapes_that_only_the_batch_varies_become_constants(tmp_path: Path) -> None:
    constants = {"zero": np.array(0, np.int64), "axis": np.array([0], np.int64), "rest": np.array([-1], np.int64)}
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["first"], axis=0),
        node("Unsqueeze", ["first", "axis"], ["size"]),
        node("Concat", ["size", "rest"], ["flat"], axis=0),
        node("Reshape", ["x", "flat"], ["y"]),
    ]
    model = graph(nodes, [("x", ["N", 3, 4])], [("y", ["N", 12])], constants)
    assert settle_shapes(model, lambda size: {"x": np.zeros((size, 3, 4), np.float32)}) == 1
    assert [item.op_type for item in model.graph.node] == ["Reshape"]
    (kept,) = [item for item in model.graph.initializer if item.name == model.graph.node[0].input[1]]
    assert onnx.numpy_helper.to_array(kept).tolist() == [0, -1]
