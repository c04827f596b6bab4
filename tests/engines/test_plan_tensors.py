"""What a plan's archive says of inputs and outputs, against what the builder says of the same plan."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import build_plan
from engines.errors import InputError
from engines.plan_tensors import read_plan_tensors
from engines.tensors import TensorSpec
from tests.tiny import tiny_graph

pytest.importorskip("tensorrt_rtx")


def cast_graph(source: int, target: int) -> onnx.ModelProto:
    """Two inputs of one element type, two outputs of another, of three and two dimensions."""
    weight = numpy_helper.from_array(np.ones((5, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["a"], "a", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["größe"], ["b"], "b", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["a", "weight"], ["product"], "product"),
        helper.make_node("Cast", ["product"], ["first"], "first", to=target),
        helper.make_node("Cast", ["b"], ["second"], "second", to=target),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "casts",
        [value("pixels", source, ["batch", 4, 5]), value("größe", source, ["batch", 7])],
        [value("first", target, ["batch", 4, 3]), value("second", target, ["batch", 7])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def agreed(graph: onnx.ModelProto, folder: Path, options: BuildOptions | None = None) -> set[TensorSpec]:
    """The tensors of a real plan, after both have been compared."""
    onnx.save(graph, folder / "model.onnx")
    built = build_plan(folder / "model.onnx", "tensorrt-rtx", options or BuildOptions())
    (folder / "model.engine").write_bytes(built.data)
    inputs, outputs = read_plan_tensors(folder / "model.engine")
    assert (set(inputs), set(outputs)) == (set(built.inputs), set(built.outputs))
    return {*inputs, *outputs}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("batch", [["1:8:32"], ["1:1:1", "4:8:16"]])
def test_a_classifiers_tensors_are_read_as_the_builder_says(fixed: bool, batch: list[str], tmp_path: Path) -> None:
    graph = tiny_graph()
    if fixed:
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
    options = BuildOptions() if fixed else BuildOptions(profiles=parse_profiles(batch))
    first = 4 if fixed else "batch"
    assert agreed(graph, tmp_path, options) == {
        TensorSpec("input", "float32", (first, 3, 16, 16)),
        TensorSpec("logits", "float32", (first, 5)),
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (TensorProto.UINT8, TensorProto.FLOAT16),
        (TensorProto.FLOAT16, TensorProto.BFLOAT16),
        (TensorProto.INT32, TensorProto.INT64),
        (TensorProto.BFLOAT16, TensorProto.INT32),
        (TensorProto.INT64, TensorProto.BOOL),
        (TensorProto.BOOL, TensorProto.FLOAT),
    ],
)
def test_every_element_type_is_known(source: int, target: int, tmp_path: Path) -> None:
    found = {spec.name: spec for spec in agreed(cast_graph(source, target), tmp_path)}
    assert found.keys() == {"pixels", "größe", "first", "second"}
    names = {TensorProto.BFLOAT16: "bfloat16"}
    wanted = names.get(source) or helper.tensor_dtype_to_np_dtype(source).name
    assert found["pixels"] == TensorSpec("pixels", wanted, ("batch", 4, 5))


@pytest.mark.parametrize("size", [0, 64, 900, 1200])
def test_nothing_is_claimed_where_the_records_are_not_whole(size: int, tmp_path: Path) -> None:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    data = bytes(build_plan(tmp_path / "model.onnx", "tensorrt-rtx").data)
    (tmp_path / "model.engine").write_bytes(data[:size])
    assert read_plan_tensors(tmp_path / "model.engine") == ((), ())


def test_damaged_records_never_crash(tmp_path: Path) -> None:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    data = bytes(build_plan(tmp_path / "model.onnx", "tensorrt-rtx").data)[:2000]
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(700, 1700, 6)] = rng.integers(0, 256, 6)
        (tmp_path / "model.engine").write_bytes(damaged.tobytes())
        read_plan_tensors(tmp_path / "model.engine")


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_plan_tensors(tmp_path / "none.engine")
