"""The passes, one by one: what each changes, what it leaves, and that the graph computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import GraphError
from engines.preprocess import Preprocess
from export.graph import module_of, tensor_specs
from export.passes.constants import constants_to_initializers
from export.passes.lift_opset import lift_opset
from export.passes.module_names import MODULE_KEY, name_after_modules
from export.passes.noops import remove_noops
from export.passes.strip_notes import strip_notes
from export.passes.uint8_input import take_uint8_input
from tests.tiny import METADATA, SIZE, tiny_graph


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    result: list[np.ndarray] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    return result


def model_of(nodes: list[onnx.NodeProto], shape: list[object], opset: int = 20) -> onnx.ModelProto:
    """Nodes from ``x`` to ``y``, FP32, both of one shape."""
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [make("x", TensorProto.FLOAT, shape)], [make("y", TensorProto.FLOAT, shape)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_constant_nodes_of_every_numeric_kind_become_initializers() -> None:
    model = model_of(
        [
            helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.array([1, 2], np.float32))),
            helper.make_node("Constant", [], ["b"], value_float=3.0),
            helper.make_node("Constant", [], ["c"], value_floats=[4.0, 5.0]),
            helper.make_node("Constant", [], ["d"], value_ints=[2]),
            helper.make_node("Mul", ["x", "a"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["n"]),
            helper.make_node("Add", ["n", "c"], ["o"]),
            helper.make_node("Reshape", ["o", "d"], ["y"]),
        ],
        [2],
    )
    x = np.array([10, 20], np.float32)
    before = run(model, x=x)
    assert constants_to_initializers(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add", "Add", "Reshape"]
    assert {tensor.name for tensor in model.graph.initializer} == set("abcd")
    np.testing.assert_array_equal(run(model, x=x), before)
    np.testing.assert_array_equal(before[0], [17, 48])
    assert not constants_to_initializers(model.graph)


def test_nodes_that_do_nothing_disappear_and_names_at_the_ends_stay() -> None:
    model = model_of(
        [
            helper.make_node("Identity", ["x"], ["a"]),
            helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[1, 1], strides=[1, 1]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("Dropout", ["c"], ["d"]),
            helper.make_node("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
            helper.make_node("MaxPool", ["e"], ["y"], kernel_shape=[1, 1]),
        ],
        ["batch", 2, 3, 3],
    )
    x = np.random.default_rng(0).normal(0, 1, (2, 2, 3, 3)).astype(np.float32)
    before = run(model, x=x)
    assert remove_noops(model.graph, tensor_specs(model))
    assert [(n.op_type, list(n.input), list(n.output)) for n in model.graph.node] == [("Relu", ["x"], ["y"])]
    np.testing.assert_array_equal(run(model, x=x), before)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Identity", ["x"], ["y"], "joint"),
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[1, 1], strides=[1, 1]),
    ],
)
def test_a_node_between_input_and_output_stays(node: onnx.NodeProto) -> None:
    model = model_of([node], ["batch", 2, 3, 3])
    assert not remove_noops(model.graph)
    assert len(model.graph.node) == 1


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [1, 1], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [1, 2]}),
        ("AveragePool", {"kernel_shape": [1, 1], "pads": [1, 1, 1, 1]}),
        ("Cast", {"to": TensorProto.FLOAT16}),
    ],
)
def test_nodes_that_do_something_stay(op: str, attributes: dict[str, object]) -> None:
    model = model_of(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node(op, ["a"], ["b"], **attributes),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        [1, 1, 4, 4],
    )
    before = model.SerializeToString()
    specs = {} if op != "Cast" else {"a": tensor_specs(tiny_graph())["input"]}
    assert not remove_noops(model.graph, specs)
    assert model.SerializeToString() == before


def _noted(node: onnx.NodeProto, *scopes: str) -> onnx.NodeProto:
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(list(scopes)))
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/someone/model.py", line 1')
    return node


def _traced() -> onnx.ModelProto:
    model = model_of(
        [
            _noted(helper.make_node("Relu", ["x"], ["relu"], "node_relu"), "", "features", "features.1", "relu"),
            _noted(helper.make_node("Mul", ["relu", "val_1"], ["mul"], "node_mul"), "", "pool", "mul"),
            _noted(helper.make_node("Mul", ["mul", "val_1"], ["mul_2"], "node_mul_2"), "", "pool", "mul_2"),
            _noted(helper.make_node("Add", ["mul_2", "head.bias"], ["y"], "node_add"), "", "head", "add"),
        ],
        [2],
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([2, 3], np.float32), name) for name in ("val_1", "head.bias")
    )
    return model


def test_nodes_tensors_and_constants_are_called_like_their_modules() -> None:
    model = _traced()
    x = np.array([1, -1], np.float32)
    before = run(model, x=x)
    assert name_after_modules(model.graph, frozenset({"head.bias"}), 20)
    assert [(n.name, list(n.input), list(n.output), module_of(n)) for n in model.graph.node] == [
        ("features.1", ["x"], ["features.1"], "features.1"),
        ("pool.mul", ["features.1", "pool.mul.b"], ["pool.mul"], "pool"),
        ("pool.mul_2", ["pool.mul", "pool.mul.b"], ["pool.mul_2"], "pool"),
        ("head", ["pool.mul_2", "head.bias"], ["y"], "head"),
    ]
    np.testing.assert_array_equal(run(model, x=x), before)


def test_a_graph_without_the_exporters_notes_keeps_its_names() -> None:
    model = tiny_graph()
    assert not name_after_modules(model.graph, frozenset(), 20)
    assert model == tiny_graph()


def test_stack_traces_and_paths_disappear_and_the_toolkits_notes_stay() -> None:
    model = _traced()
    name_after_modules(model.graph, frozenset({"head.bias"}), 20)
    model.graph.input[0].metadata_props.add(key="pkg.torch.x", value="/home/someone")
    model.graph.value_info.append(helper.make_tensor_value_info("features.1", TensorProto.FLOAT, [7]))
    model.graph.doc_string = "/home/someone"
    assert strip_notes(model.graph)
    assert b"/home" not in model.SerializeToString()
    assert [[item.key for item in node.metadata_props] for node in model.graph.node] == [[MODULE_KEY]] * 4
    assert not model.graph.value_info
    assert not strip_notes(model.graph)


@pytest.mark.parametrize("opset", [21, 22, 23])
def test_a_lifted_graph_computes_the_same_and_keeps_names_weights_and_notes(opset: int) -> None:
    model = tiny_graph(lrn=True)
    model.graph.node[0].metadata_props.add(key=MODULE_KEY, value="conv1")
    x = np.random.default_rng(0).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    before, original = run(model, input=x), tiny_graph(lrn=True)
    assert lift_opset(model, opset)
    assert model.opset_import[0].version == opset
    assert model.graph.initializer == original.graph.initializer
    assert model.graph.input == original.graph.input
    assert model.metadata_props == original.metadata_props
    assert [node.name for node in model.graph.node] == [node.name for node in original.graph.node]
    assert module_of(model.graph.node[0]) == "conv1"
    np.testing.assert_array_equal(run(model, input=x), before)
    assert not lift_opset(model, opset)


def test_an_operator_without_a_conversion_is_an_error() -> None:
    model = model_of([helper.make_node("Upsample", ["x", "s"], ["y"], mode="nearest")], [1, 1, 2, 2], opset=9)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "s"))
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(GraphError, match="can't be lifted from opset 9 to 20"):
        lift_opset(model, 20)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_inside_the_graph_equals_the_preprocessing_bit_for_bit(channels: int) -> None:
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if channels == 3 else ((0.1307,), (0.3081,))
    preprocess = Preprocess(16, 16, channels=channels, mean=mean, std=std)
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], ["batch", channels, 16, 16])
    assert take_uint8_input(model.graph, preprocess)
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(channels, 3)
    pixels = np.concatenate([every_value, every_value[:, ::-1]])
    np.testing.assert_array_equal(run(model, x=pixels)[0], preprocess.normalise(pixels))
    assert not take_uint8_input(model.graph, preprocess)


def test_a_graph_that_takes_pixels_gives_the_same_logits() -> None:
    model = tiny_graph()
    take_uint8_input(model.graph, METADATA.preprocess)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    expected = run(tiny_graph(), input=METADATA.preprocess.normalise(pixels))
    np.testing.assert_array_equal(run(model, input=pixels), expected)


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(GraphError, match="not what the preprocessing makes"):
        take_uint8_input(tiny_graph().graph, Preprocess(SIZE, SIZE + 1))
