import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.qdq import quantise
from calibration.table import CalibrationTable, TensorRange
from engines.passport import Passport, passport_path
from export.graph import Derived, weights_digest, write_derived
from tests.calibration.foreign_graphs import options, stock, with_pool, with_weight
from tests.calibration.graphs import residual_graph
from tests.tiny import METADATA, tiny_graph
from tests.toolkit.conftest import Shown
from toolkit.steps.inspect import inspect


def test_a_graph_is_shown_with_operators_types_and_metadata(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(lrn=True), path)
    code, out, _ = shown(str(path), "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["kind"], value["opset"]) == ("graph", 20)
    assert value["operators"] == {"Relu": 3, "Conv": 2, "Gemm": 2, "LRN": 1, "MaxPool": 1, "Flatten": 1}
    count = sum(int(np.prod(tensor.dims)) for tensor in tiny_graph().graph.initializer)
    assert value["weights"] == {"float32": {"tensors": 8, "values": count, "bytes": 4 * count}}
    assert value["layer_types"] == {"fp32": 4}
    assert value["metadata"] == METADATA.to_json()
    assert value["quantisation"] == {}
    code, out, _ = shown(str(path))
    assert code == 0
    assert "2 Conv" in out
    assert "input: float32[batch, 3, 16, 16]" in out
    assert "tiny" in out


def quantised_graph(axis: int = 0) -> onnx.ModelProto:
    """The tiny graph whose first convolution has an int8 per-tensor input and int8 per-channel weights."""
    model = tiny_graph()
    graph = model.graph
    weight = next(t for t in graph.initializer if t.name == "conv1.weight")
    values = numpy_helper.to_array(weight)
    scale = np.abs(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).max(axis=1) / 127
    stored = np.rint(values / np.moveaxis(scale.reshape(-1, 1, 1, 1), 0, axis)).astype(np.int8)
    graph.initializer.remove(weight)
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in (
            ("w8", stored), ("ws", scale.astype(np.float32)), ("wz", np.zeros(len(scale), np.int8)),
            ("xs", np.float32(0.02)), ("xz", np.int8(0)),
        )
    )  # fmt: skip
    conv = graph.node[0]
    conv.input[0], conv.input[1] = "x", "w"
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "xs", "xz"], ["x8"], "xq"),
        helper.make_node("DequantizeLinear", ["x8", "xs", "xz"], ["x"], "xdq"),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], "wdq", axis=axis),
    ]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_a_quantised_graph_shows_where_and_how_it_is_quantised(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.int8.onnx"
    onnx.save(quantised_graph(), path)
    code, out, _ = shown(str(path), "--json")
    value = json.loads(out)
    assert code == 0
    assert value["quantisation"] == {
        "activations": {"int8 per tensor": 1},
        "constants": {"int8 per channel (axis 0)": 1},
    }
    assert value["layer_types"] == {"fp32": 3, "int8": 1}
    assert {item["node"]: item["effect"] for item in value["findings"]} == dict.fromkeys(
        ["conv2", "fc1", "fc2"], "runs in float"
    )


def test_a_graph_that_is_placed_for_tensorrt_has_nothing_against_it(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.int8.onnx"
    model = tiny_graph()
    names = ("input", "relu1", "pool", "relu2", "flat", "relu3")
    table = CalibrationTable({name: TensorRange(3.0, -3.0, 3.0) for name in names}, "minmax", weights_digest(model))
    onnx.save(quantise(model, table, "tensorrt"), path)
    value = inspect(path).to_json()
    assert value["findings"] == []
    assert value["layer_types"] == {"int8": 4}
    assert "nothing that it would refuse" in shown(str(path))[1]


def test_weights_quantised_on_the_wrong_axis_are_named_for_what_tensorrt_does(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.int8.onnx"
    onnx.save(quantised_graph(axis=1), path)
    findings = inspect(path).to_json()["findings"]
    assert findings
    code, out, _ = shown(str(path))
    assert code == 0
    text = " ".join(out.split())
    for finding in findings:
        assert finding["node"] in text
        assert " ".join(finding["remedy"].split()) in text


def test_a_graph_placed_for_onnx_runtime_is_not_called_wrong_for_tensorrt(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "model.int8.ort.onnx"
    model = quantised_graph(axis=1)
    write_derived(model, Derived("int8", "sha256:0", placement="onnxruntime"))
    onnx.save(model, path)
    assert inspect(path).to_json()["derived"]["placement"] == "onnxruntime"
    text = " ".join(shown(str(path))[1].split())
    assert "the graph is placed for ONNX Runtime on purpose" in text
    assert "--from" not in text


FOREIGN: dict[str, tuple[Callable[[Path], onnx.ModelProto], tuple[str, ...]]] = {
    "quantize_static": (
        lambda folder: stock(tiny_graph(), folder, **options("defaults")),
        (
            "would refuse 18 nodes",
            "conv1.bias_DequantizeLinear it dequantises an int32 bias refused",
        ),
    ),
    "uint8": (
        lambda folder: stock(tiny_graph(), folder, **options("uint8")),
        (
            "compute wrong results from 5 nodes",
            "relu1_QuantizeLinear uint8 read as int8: half its range is clipped wrong results",
        ),
    ),
    "zero point": (
        lambda _: with_pool(zero=np.int8(3)),
        ("would refuse 2 nodes", "pool.quantized its zero point is 3: asymmetric refused"),
    ),
    "wrong weight axis": (
        lambda _: with_weight("conv2", None, np.full(8, 0.01, np.float32), np.zeros(8, np.int8), axis=1),
        (
            "would run 1 of 4 convolutions and matrix products in float",
            "conv2 its weight has scales along axis 1, not 0, that of the output channels runs in float",
        ),
    ),
    "per-channel activation": (
        lambda _: with_pool(np.full(8, 0.01, np.float32), np.zeros(8, np.int8)),
        (
            "would run 1 of 4 convolutions and matrix products in float",
            "conv2 its data has 8 scales, one a channel runs in float",
        ),
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_graphs_are_named_for_what_tensorrt_would_do_with_them(
    name: str, tmp_path: Path, shown: Shown
) -> None:
    make, texts = FOREIGN[name]
    path = tmp_path / "foreign.onnx"
    model = make(tmp_path)
    del model.metadata_props[:]  # some are made from this toolkit's own
    onnx.save(model, path)
    code, out, _ = shown(str(path))
    assert code == 0
    text = " ".join(out.split())
    for expected in (*texts, "toolkit calibrate MODEL.onnx --from foreign.onnx"):
        assert expected in text


def test_many_nodes_with_one_problem_are_cut_in_the_table_and_whole_in_json(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(stock(residual_graph(), tmp_path, **options("int16")), path)
    text = " ".join(shown(str(path))[1].split())
    findings = inspect(path).to_json()["findings"]
    stored = [item["node"] for item in findings if item["problem"] == "it stores int16"]
    assert len(stored) == 20
    table = text[text.index("node by node") :]
    assert sum(f"{node} it stores int16 refused" in table for node in stored) == 8
    assert "… and 12 more it stores int16 refused" in table


def test_a_graph_from_elsewhere_is_shown_without_metadata(tmp_path: Path, shown: Shown) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(tiny_graph(metadata=None), path)
    assert inspect(path).to_json()["metadata"] is None
    code, out, _ = shown(str(path))
    assert code == 0
    assert "none: a foreign file" in out


def test_a_graph_that_is_not_its_passports_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.fp16.onnx"
    onnx.save(tiny_graph(), path)
    Passport.of(path, backend="onnxruntime", precision="fp16", command="toolkit build-engine").write(
        passport_path(path)
    )
    assert inspect(path).to_json()["reasons_not_to_run"] == []
    assert inspect(path).to_json()["passport"]["precision"] == "fp16"
    onnx.save(tiny_graph(seed=1), path)
    (reason,) = inspect(path).to_json()["reasons_not_to_run"]
    assert "passport" in reason["cause"]
    passport_path(path).write_text("{")
    assert inspect(path).to_json()["passport"] is None


def test_a_type_that_no_one_expects_is_counted_as_it_is(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int64), "unused"))
    onnx.save(model, tmp_path / "m.onnx")
    assert inspect(tmp_path / "m.onnx").to_json()["weights"]["int64"] == {"tensors": 1, "values": 3, "bytes": 24}
