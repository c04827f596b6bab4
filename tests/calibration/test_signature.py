"""Signatures: what identifies a tensor whatever its name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.ranges import Ranges
from calibration.signature import content_digest, signatures
from export.graph import weights_digest
from tests.calibration.graphs import IMAGES, graph_of, residual_graph, run
from tests.calibration.renaming import copy_of, give, insert, node_of, otherwise_exported, renamed, values_of
from tests.tiny import tiny_graph


def wanted(model: onnx.ModelProto) -> list[str]:
    found = signatures(model)
    return [found[name] for name in Ranges(model).wanted()]


@pytest.mark.parametrize("model", [tiny_graph(lrn=True), residual_graph()], ids=["chain", "residual"])
def test_signatures_dont_depend_on_names_and_tell_tensors_apart(model):
    assert wanted(renamed(model)) == wanted(model)
    found = signatures(model)
    assert len(set(found.values())) == len(found) == 1 + len(model.graph.node)


def test_rewrites_that_change_no_value_change_no_signature():
    model, other = tiny_graph(), otherwise_exported(tiny_graph())
    np.testing.assert_array_equal(run(model, IMAGES[:4]), run(other, IMAGES[:4]))
    assert wanted(other) == wanted(model)
    assert signatures(other)["logits"] == signatures(model)["logits"]


def test_a_weight_changes_what_depends_on_it_and_nothing_else():
    model, other = tiny_graph(), tiny_graph()
    weight = values_of(other, "conv2.weight").copy()
    weight[0, 0, 0, 0] += 1e-3
    give(other, **{"conv2.weight": weight})
    before, after = signatures(model), signatures(other)
    assert {name for name in before if before[name] != after[name]} == {
        "conv2", "relu2", "flat", "fc1", "relu3", "logits"
    }  # fmt: skip


def test_an_attribute_or_the_order_of_inputs_counts():
    model, other = tiny_graph(), tiny_graph()
    pool = node_of(other, "pool")
    pool.attribute[0].ints[:] = [1, 1]
    assert signatures(other)["pool"] != signatures(model)["pool"]

    def difference(*inputs):
        nodes = [helper.make_node("Sigmoid", ["input"], ["s"], "s")]
        return graph_of([*nodes, helper.make_node("Sub", inputs, ["logits"], "d")], {}, output=["batch", 3, 16, 16])

    assert signatures(difference("input", "s"))["logits"] != signatures(difference("s", "input"))["logits"]


def test_a_sum_is_the_same_in_either_order():
    model, other = residual_graph(), residual_graph()
    node_of(other, "add").input[:] = ["r1", "c2"]
    assert signatures(other)["sum"] == signatures(model)["sum"]


def test_constants_may_be_initializers_or_nodes():
    model, other = tiny_graph(), tiny_graph()
    bias = next(item for item in other.graph.initializer if item.name == "conv1.bias")
    other.graph.initializer.remove(bias)
    insert(other, "conv1", helper.make_node("Constant", [], ["conv1.bias"], "bias", value=bias))
    assert signatures(other) == signatures(model)
    assert content_digest(other) == content_digest(model)


def test_a_fixed_batch_is_the_same_network_and_another_image_size_is_not():
    model = tiny_graph()
    fixed, larger = copy_of(model), copy_of(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert signatures(fixed) == signatures(model)
    first = residual_graph()
    del first.graph.value_info[:]
    larger = copy_of(first)
    for axis in (2, 3):
        larger.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 32
    assert signatures(larger)["c1"] != signatures(first)["c1"]


def test_equal_signatures_have_equal_values():
    """A repeated branch has the signature of the first, so one range is right for both."""
    model = residual_graph()
    node_of(model, "conv4").input[1] = "copy"
    give(model, copy=values_of(model, "w3"))
    found = signatures(model)
    assert found["c3"] == found["c4"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("c3", "c4"))
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = session.run(["c3", "c4"], {"input": IMAGES[:2]})
    np.testing.assert_array_equal(first, second)
    assert signatures(residual_graph())["c3"] != signatures(residual_graph())["c4"]


def test_reshapes_are_told_apart_by_their_shape():
    def shaped(*shape):
        nodes = [helper.make_node("Reshape", ["input", "s"], ["logits"], "r")]
        return graph_of(nodes, {"s": np.array(shape, np.int64)}, output=["batch", *shape[1:]])

    assert signatures(shaped(0, 3, 256))["logits"] != signatures(shaped(0, 256, 3))["logits"]
    assert signatures(shaped(0, 3, 16, 16))["logits"] == signatures(shaped(0, 3, 16, 16))["input"]


def test_what_is_random_or_inside_control_flow_has_no_signature():
    noise = helper.make_node("RandomNormalLike", ["input"], ["noise"], "noise")
    add = helper.make_node("Add", ["input", "noise"], ["logits"], "add")
    assert set(signatures(graph_of([noise, add], {}, output=["batch", 3, 16, 16]))) == {"input"}
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    branches = {
        f"{which}_branch": helper.make_graph([helper.make_node(op, ["input"], ["x"])], which, [], [image])
        for which, op in (("then", "Relu"), ("else", "Sigmoid"))
    }
    choice = helper.make_node("If", ["on"], ["logits"], "if", **branches)
    model = graph_of([choice], {"on": np.array(True)}, output=["batch", 3, 16, 16])
    assert set(signatures(model)) == {"input"}
    trained = [helper.make_node("Dropout", ["input", "", "on"], ["logits"], "drop")]
    model = graph_of(trained, {"on": np.array(True)}, output=["batch", 3, 16, 16])
    assert set(signatures(model)) == {"input"}


def test_the_content_digest_is_of_weights_and_not_of_their_names():
    model, other = tiny_graph(), tiny_graph(seed=1)
    assert content_digest(renamed(model)) == content_digest(model) == content_digest(otherwise_exported(model))
    assert weights_digest(renamed(model)) != weights_digest(model)
    assert content_digest(other) != content_digest(model)
    transposed = copy_of(model)
    give(transposed, **{"fc2.weight": np.ascontiguousarray(values_of(model, "fc2.weight").T)})
    assert content_digest(transposed) != content_digest(model)


def test_a_constant_may_be_stored_in_either_form():
    model, other = tiny_graph(), tiny_graph()
    tensor = next(item for item in other.graph.initializer if item.name == "conv1.bias")
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(helper.make_tensor("conv1.bias", TensorProto.FLOAT, values.shape, values.tolist()))
    assert not tensor.raw_data
    assert signatures(other) == signatures(model)
    assert content_digest(other) == content_digest(model)
