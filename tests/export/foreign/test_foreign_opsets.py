"""Graphs of opsets 7 to 25 become graphs of a current opset that compute the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines.errors import GraphError
from export.foreign.importing import import_foreign
from export.foreign.opset import opset_of
from tests.export.foreign.graphs import convolution, graph, node, same, saved, weight

PICTURE = ["N", 3, 8, 8]

OLD: dict[str, tuple[int, str, dict[str, Any], list[np.ndarray[Any, Any]]]] = {
    "clip by attributes": (7, "Clip", {"min": -0.25, "max": 0.5}, []),
    "pad by attributes": (7, "Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 0.5}, []),
    "dropout": (7, "Dropout", {"ratio": 0.5}, []),
    "upsample by attributes": (7, "Upsample", {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}, []),
    "upsample": (9, "Upsample", {"mode": "nearest"}, [np.array([1, 1, 2, 2], np.float32)]),
    "linear upsample": (9, "Upsample", {"mode": "linear"}, [np.array([1, 1, 2, 2], np.float32)]),
    "resize": (10, "Resize", {"mode": "linear"}, [np.array([1, 1, 2, 2], np.float32)]),
    "nearest resize": (10, "Resize", {"mode": "nearest"}, [np.array([1, 1, 3, 3], np.float32)]),
    "softmax over all": (11, "Softmax", {}, []),
    "softmax over two": (11, "Softmax", {"axis": 2}, []),
    "softmax over the last": (11, "Softmax", {"axis": 3}, []),
    "log softmax": (9, "LogSoftmax", {"axis": 1}, []),
    "mean by attributes": (11, "ReduceMean", {"axes": [2, 3], "keepdims": 0}, []),
    "sum by attributes": (11, "ReduceSum", {"axes": [2], "keepdims": 1}, []),
    "slice by attributes": (9, "Slice", {"axes": [2], "starts": [1], "ends": [6]}, []),
    "unsqueeze by attributes": (11, "Unsqueeze", {"axes": [1]}, []),
    "instance normalisation": (7, "InstanceNormalization", {}, [weight(3), weight(3, seed=1)]),
    "local response": (7, "LRN", {"size": 3}, []),
}


def layer(
    opset: int, operator: str, attributes: dict[str, Any], constants: list[np.ndarray[Any, Any]]
) -> onnx.ModelProto:
    names = {f"c{place}": values for place, values in enumerate(constants)}
    nodes = [
        node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1], name="conv"),
        node(operator, ["conv", *names], ["y"], name="old", **attributes),
    ]
    sizes = ["N", "a", "b", "c", "d"][: {"ReduceMean": 2, "Unsqueeze": 5}.get(operator, 4)]
    return graph(nodes, [("x", PICTURE)], [("y", [*sizes])], {"w": weight(3, 3, 3, 3), **names}, opset=opset, ir=4)


@pytest.mark.parametrize("case", OLD)
def test_an_operator_that_has_changed_computes_what_it_did(case: str, tmp_path: Path) -> None:
    opset, operator, attributes, constants = OLD[case]
    path = saved(layer(opset, operator, attributes, constants), tmp_path)
    imported = import_foreign(path)
    assert opset_of(imported.model) == 20
    assert f"opset: {opset} became 20" in imported.changes
    same(imported.model, path, {"x": weight(7, 3, 8, 8, seed=5) * 8})


def test_a_softmax_over_the_last_dimension_stays_one_node(tmp_path: Path) -> None:
    model = convolution(11)
    model.graph.node.append(node("Softmax", ["y"], ["chance"], axis=1))
    model.graph.output[0].name = "chance"
    imported = import_foreign(saved(model, tmp_path))
    assert [item.op_type for item in imported.model.graph.node] == [
        "Conv",
        "Relu",
        "MaxPool",
        "Reshape",
        "Gemm",
        "Softmax",
    ]
    assert imported.metadata.scores == "probabilities"


@pytest.mark.parametrize(
    ("opset", "found"), [(7, 20), (11, 20), (13, 20), (17, 20), (19, 20), (21, 21), (23, 23), (25, 23)]
)
def test_opsets_are_lifted_to_20_kept_up_to_23_and_lowered_from_there(opset: int, found: int, tmp_path: Path) -> None:
    path = saved(convolution(opset, ir=4 if opset < 13 else 10), tmp_path)
    imported = import_foreign(path)
    assert opset_of(imported.model) == found
    assert all(item.name for item in imported.model.graph.node)
    same(imported.model, path, {"x": weight(7, 3, 8, 8, seed=5) * 8})


def test_an_operator_that_opset_23_lacks_and_opset_6_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="opset 6; opsets from 7 on"):
        import_foreign(saved(convolution(6, ir=4), tmp_path))
    swish = graph([node("Swish", ["x"], ["y"], name="s")], [("x", ["N", 4])], [("y", ["N", 4])], {}, opset=24, ir=10)
    with pytest.raises(GraphError, match="node 's' its operator Swish"):
        import_foreign(saved(swish, tmp_path))
