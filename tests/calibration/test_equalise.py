"""Cross-layer equalisation: the same bits in float, only where it may be done, and only where it is needed."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.equalise import equalisable, equalise, find_factors
from calibration.qdq import quantise
from calibration.ranges import Ranges
from calibration.regions import regions
from engines.errors import TableError
from export.graph import weights_digest
from tests.calibration.graphs import IMAGES, UNSEEN, graph_of, residual_graph, run, sqnr
from tests.tiny import tiny_graph

make = helper.make_node


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    fan_in = max(1, int(np.prod(shape[1:])))
    return np.random.default_rng([seed, *shape]).normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)


def chain(*nodes: onnx.NodeProto, shape=("batch", 3, 16, 16), output=("batch", 5), **constants) -> onnx.ModelProto:
    return graph_of(nodes, constants, shape=list(shape), output=list(output))


def conv_pool_conv() -> onnx.ModelProto:
    return chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu"),
        make("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["p1", "w2"], ["logits"], "conv2"),
        output=("batch", 5, 6, 6), w1=weight(8, 3, 3, 3), b1=weight(8), w2=weight(5, 8, 3, 3),
    )  # fmt: skip


def conv_resize_gemm() -> onnx.ModelProto:
    return chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", strides=[8, 8]),
        make("Relu", ["c1"], ["r1"], "relu"),
        make("Resize", ["r1", "", "scales"], ["n1"], "resize", mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        make("Flatten", ["n1"], ["f1"], "flatten"),
        make("Gemm", ["f1", "w2"], ["logits"], "fc1"),
        w1=weight(6, 3, 3, 3), b1=weight(6), scales=np.array([1, 1, 3, 3], np.float32), w2=weight(6 * 36, 5),
    )  # fmt: skip


def conv_flatten_gemm() -> onnx.ModelProto:
    return chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", strides=[4, 4]),
        make("LeakyRelu", ["c1"], ["r1"], "relu", alpha=0.1),
        make("AveragePool", ["r1"], ["a1"], "average", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        make("Flatten", ["a1"], ["f1"], "flatten"),
        make("Gemm", ["f1", "w2", "b2"], ["g1"], "fc1", alpha=0.5, beta=3.0),
        make("Relu", ["g1"], ["r2"], "relu2"),
        make("Gemm", ["r2", "w3", "b3"], ["logits"], "fc2", transB=1, alpha=0.3),
        w1=weight(6, 3, 3, 3), b1=weight(6), w2=weight(6 * 16, 12), b2=weight(1), w3=weight(5, 12), b3=weight(5),
    )  # fmt: skip


def conv_reshape_matmul() -> onnx.ModelProto:
    return chain(
        make("Conv", ["input", "w1"], ["c1"], "conv1", strides=[4, 4]),
        make("Identity", ["c1"], ["i1"], "identity"),
        make("Reshape", ["i1", "sizes"], ["f1"], "reshape"),
        make("MatMul", ["f1", "w2"], ["m1"], "product1"),
        make("Relu", ["m1"], ["r1"], "relu"),
        make("MatMul", ["r1", "w3"], ["logits"], "product2"),
        w1=weight(6, 3, 4, 4), sizes=np.array([-1, 96]), w2=weight(96, 12), w3=weight(12, 5),
    )  # fmt: skip


def grouped() -> onnx.ModelProto:
    """Grouped, depthwise, pointwise, transposed (grouped too), average over the positions, product."""
    return chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1"),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "w2", "b2"], ["c2"], "grouped", group=2),
        make("Relu", ["c2"], ["r2"], "relu2"),
        make("Conv", ["r2", "w3"], ["c3"], "depthwise", group=8),
        make("Relu", ["c3"], ["r3"], "relu3"),
        make("ConvTranspose", ["r3", "w4", "b4"], ["c4"], "up", group=2, strides=[2, 2]),
        make("Relu", ["c4"], ["r4"], "relu4"),
        make("ConvTranspose", ["r4", "w5"], ["c5"], "up2"),
        make("GlobalAveragePool", ["c5"], ["m5"], "mean"),
        make("Squeeze", ["m5", "axes"], ["s5"], "squeeze"),
        make("Gemm", ["s5", "w6"], ["logits"], "fc", transB=1),
        w1=weight(12, 3, 3, 3), b1=weight(12), w2=weight(8, 6, 3, 3), b2=weight(8), w3=weight(8, 1, 3, 3),
        w4=weight(8, 3, 2, 2), b4=weight(6), w5=weight(6, 7, 1, 1), axes=np.array([2, 3]), w6=weight(5, 7),
    )  # fmt: skip


def forked() -> onnx.ModelProto:
    """Two convolutions read one activation, one of them after a pooling."""
    return chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "w2"], ["c2"], "conv2", strides=[2, 2]),
        make("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["p1", "w3"], ["c3"], "conv3"),
        make("Add", ["c2", "c3"], ["logits"], "add"),
        output=("batch", 5, 8, 8), w1=weight(8, 3, 3, 3), b1=weight(8), w2=weight(5, 8, 1, 1), w3=weight(5, 8, 1, 1),
    )  # fmt: skip


GRAPHS = {
    "pool": (conv_pool_conv, ("r1",)),
    "flatten": (conv_flatten_gemm, ("a1", "r2")),
    "resize": (conv_resize_gemm, ("n1",)),
    "reshape": (conv_reshape_matmul, ("c1", "r1")),
    "grouped": (grouped, ("r1", "r2", "r3", "r4", "m5")),
    "forked": (forked, ("r1",)),
    "tiny": (tiny_graph, ("relu1", "relu2", "relu3")),
    "lrn": (lambda: tiny_graph(lrn=True), ("relu2", "relu3")),
    "residual": (residual_graph, ()),
}


def random_factors(model: onnx.ModelProto, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {name: (2.0 ** rng.integers(-10, 11, found.channels)).tolist() for name, found in regions(model).items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_only_what_homogeneous_operators_join_is_equalisable(name):
    make_graph, expected = GRAPHS[name]
    model = make_graph()
    assert equalisable(model) == expected
    assert set(expected) <= set(Ranges(model).wanted())  # a range is collected for each


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("name", [name for name, (_, found) in GRAPHS.items() if found])
def test_powers_of_two_change_no_bit_of_the_outputs_and_every_scaled_tensor(name, optimised):
    model = GRAPHS[name][0]()
    before = model.SerializeToString()
    factors = random_factors(model)
    equal = equalise(model, factors)
    onnx.checker.check_model(equal, full_check=True)
    expected, found = (run(item, UNSEEN, optimised=optimised) for item in (model, equal))
    assert expected.std() > 0
    np.testing.assert_array_equal(found, expected)
    assert model.SerializeToString() == before
    assert [item.SerializeToString() for item in equal.graph.node] == [
        item.SerializeToString() for item in model.graph.node
    ]
    for group, numbers in factors.items():
        tap = Ranges(model).group(group).tap
        plain, scaled = (run(with_output(item, tap), UNSEEN) for item in (model, equal))
        shape = (len(plain), len(numbers), -1)
        divided = plain.reshape(shape) / np.array(numbers, np.float32)[:, None]
        np.testing.assert_array_equal(scaled.reshape(shape), divided)


def with_output(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.add().name = tensor
    return copy


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-12, 12), min_size=8, max_size=8))
def test_any_powers_of_two_may_be_given(exponents):
    model = conv_pool_conv()
    equal = equalise(model, {"r1": [2.0**number for number in exponents]})
    np.testing.assert_array_equal(run(equal, UNSEEN), run(model, UNSEEN))


@pytest.mark.parametrize(
    "op",
    [
        make("Sigmoid", ["c1"], ["x"], "op"),
        make("HardSwish", ["c1"], ["x"], "op"),
        make("Clip", ["c1", "zero", "six"], ["x"], "op"),
        make("LRN", ["c1"], ["x"], "op", size=3),
        make("Softmax", ["c1"], ["x"], "op", axis=1),
        make("Add", ["c1", "w4"], ["x"], "op"),
        make("Concat", ["c1", "c1"], ["x"], "op", axis=2),
        make("Transpose", ["c1"], ["x"], "op", perm=[0, 2, 1, 3]),
    ],
    ids=lambda node: node.op_type,
)
def test_other_operators_stop_it(op):
    shape = ("batch", 5, None, None)
    nodes = [
        make("Conv", ["input", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        op,
        make("Conv", ["x", "w2"], ["logits"], "conv2"),
    ]
    read = 16 if op.op_type == "Transpose" else 8
    constants = {
        "w1": weight(8, 3, 3, 3), "w2": weight(5, read, 1, 1), "w4": weight(1, 8, 1, 1),
        "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    assert equalisable(graph_of(nodes, constants, output=shape)) == ()


def test_the_input_an_output_and_shared_weights_are_left_alone():
    model = conv_pool_conv()
    assert "input" not in equalisable(model)
    model.graph.output.append(helper.make_tensor_value_info("c1", TensorProto.FLOAT, None))
    assert equalisable(model) == ()

    shared = chain(
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1"),
        make("Conv", ["c1", "w2", "b2"], ["c2"], "conv2"),
        make("Conv", ["c2", "w2", "b2"], ["c3"], "conv3"),
        make("Conv", ["c3", "w4"], ["logits"], "conv4"),
        output=("batch", 3, 8, 8), w1=weight(8, 3, 3, 3), b1=weight(8), w2=weight(8, 8, 3, 3), b2=weight(8),
        w4=weight(3, 8, 3, 3),
    )  # fmt: skip
    assert equalisable(shared) == ()


def test_what_a_graph_inside_a_node_reads_is_left_alone():
    def branch(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])

    nodes = [
        make("Conv", ["input", "w1"], ["c1"], "conv1"),
        make("Conv", ["c1", "w2"], ["c2"], "conv2"),
        make(
            "If", ["on"], ["logits"], "if",
            then_branch=branch("then", make("Relu", ["c1"], ["y"])),
            else_branch=branch("else", make("Identity", ["c2"], ["y"])),
        ),
    ]  # fmt: skip
    constants = {"w1": weight(8, 3, 3, 3), "w2": weight(8, 8, 1, 1), "on": np.array(True)}
    assert equalisable(graph_of(nodes, constants, output=("batch", 8, 14, 14))) == ()


def test_weights_given_by_constant_nodes_are_scaled_too():
    model = conv_pool_conv()
    values = {item.name: item for item in model.graph.initializer}
    nodes = [make("Constant", [], [name], f"const {name}", value=tensor) for name, tensor in values.items()]
    inner = helper.make_graph([*nodes, *model.graph.node], "g", model.graph.input, model.graph.output)
    constant = helper.make_model(inner, opset_imports=model.opset_import, ir_version=10)
    equal = equalise(constant, random_factors(constant))
    np.testing.assert_array_equal(run(equal, UNSEEN), run(model, UNSEEN))
    assert equal.SerializeToString() != constant.SerializeToString()


def test_no_factors_give_the_graph_itself_and_wrong_ones_are_refused():
    model = tiny_graph()
    assert equalise(model, {}) is model
    with pytest.raises(TableError, match="'input'"):
        equalise(model, {"input": [1.0] * 3})
    with pytest.raises(TableError, match="8 channels, and the table scales 7"):
        equalise(model, {"relu1": [1.0] * 7})


def maxima(model: onnx.ModelProto, names=None) -> dict[str, np.ndarray]:
    found = {}
    for name in names or equalisable(model):
        values = run(with_output(model, Ranges(model).group(name).tap), IMAGES)
        found[name] = np.abs(values).max(axis=(0, *range(2, values.ndim)))
    return found


def spoilt(model: onnx.ModelProto, factors: dict[str, list[float]]) -> onnx.ModelProto:
    """The same function with some channels far above the others."""
    return equalise(model, {name: [1 / number for number in numbers] for name, numbers in factors.items()})


@pytest.mark.parametrize("name", [name for name, (_, found) in GRAPHS.items() if found])
def test_an_ordinary_network_gets_no_factors(name):
    model = GRAPHS[name][0]()
    assert find_factors(model, maxima(model)) == {}


@pytest.mark.parametrize("size", [128.0, 1024.0])
@pytest.mark.parametrize("name", ["pool", "flatten", "reshape", "forked", "tiny", "grouped"])
def test_a_few_channels_far_above_the_others_are_brought_to_the_median(name, size):
    model = GRAPHS[name][0]()
    group = equalisable(model)[0]
    channels = regions(model)[group].channels
    hard = spoilt(model, {group: [size if index in {1, 4} else 1.0 for index in range(channels)]})
    factors = find_factors(hard, maxima(hard))
    assert set(factors) == {group}
    assert all(np.log2(number) % 1 == 0 for number in factors[group])
    before, after = (
        maxima(item, [group])[group].reshape(channels, -1).max(axis=1) for item in (hard, equalise(hard, factors))
    )
    plain = maxima(model, [group])[group].reshape(channels, -1).max(axis=1)
    assert before.max() / np.median(before) > size / 8
    assert after.max() / np.median(after) < max(8, 2 * plain.max() / np.median(plain))


def test_many_channels_far_above_the_others_are_met_from_both_sides():
    """Where the median is itself one of the large channels, the small ones are made larger."""
    model = tiny_graph()
    hard = spoilt(model, {"relu2": [1024.0] * 10 + [1.0] * 6})
    factors = find_factors(hard, maxima(hard))["relu2"]
    assert min(factors[:10]) > max(factors[10:]) * 32


def test_a_dead_channel_keeps_the_factor_1():
    model = tiny_graph()
    hard = spoilt(model, {"relu2": [1.0, 1024.0] + [1.0] * 14})
    peaks = maxima(hard)
    peaks["relu2"].reshape(16, -1)[5] = 0
    factors = find_factors(hard, peaks)["relu2"]
    assert factors[5] == 1
    assert factors[1] > 100
    assert find_factors(hard, {"relu2": np.zeros(16, np.float32), "other": np.ones(3, np.float32)}) == {}


def test_loud_weights_that_read_a_channel_that_was_always_zero_are_brought_down():
    """Nothing is lost of the others then: the weights of a row have one scale."""
    model = tiny_graph()
    hard = spoilt(model, {"relu2": [1.0] * 5 + [2.0**-9] + [1.0] * 10})
    peaks = maxima(hard)
    peaks["relu2"].reshape(16, -1)[5] = 0
    factors = find_factors(hard, peaks)["relu2"]
    assert 2.0**-12 <= factors[5] <= 2.0**-7
    assert all(0.2 <= factor <= 5 for index, factor in enumerate(factors) if index != 5)


def test_a_channel_that_is_far_above_the_others_for_every_image_is_brought_down():
    """Most of the signal is that channel: what is lost of the others hardly shows in the ratio of signal to noise."""
    rng = np.random.default_rng(0)
    peaks = {"r2": rng.uniform(0.5, 1, 12), "a1": np.ones(6)}
    assert find_factors(conv_flatten_gemm(), peaks) == {}
    peaks["r2"][3] = 1000
    ((name, factors),) = find_factors(conv_flatten_gemm(), peaks).items()
    assert (name, np.argmax(factors)) == ("r2", 3)
    assert factors[3] >= 16 * np.median(factors)


def test_of_a_product_with_thousands_of_outputs_some_tell_the_factors():
    wide = chain(
        make("Gemm", ["input", "w1"], ["g1"], "fc1", transB=1),
        make("Relu", ["g1"], ["r1"], "relu"),
        make("Gemm", ["r1", "w2"], ["logits"], "fc2", transB=1),
        shape=("batch", 10), output=("batch", 3000), w1=weight(20, 10), w2=weight(3000, 20),
    )  # fmt: skip
    hard = spoilt(wide, {"r1": [512.0] + [1.0] * 19})
    feed = np.random.default_rng(0).normal(0, 1, (64, 10)).astype(np.float32)
    peaks = {"r1": run(with_output(hard, "r1"), feed).max(axis=0)}
    factors = np.array(find_factors(hard, peaks)["r1"])
    assert factors[0] / np.median(factors) >= 256


def test_channels_on_another_axis_than_1_are_left_alone():
    """Their maxima are measured along axis 1."""
    nodes = [
        make("MatMul", ["input", "w1"], ["m1"], "product1"),
        make("Relu", ["m1"], ["r1"], "relu"),
        make("MatMul", ["r1", "w2"], ["logits"], "product2"),
    ]
    model = graph_of(nodes, {"w1": weight(16, 8), "w2": weight(8, 5)}, output=("batch", 3, 16, 5))
    assert equalisable(model) == ()


def test_equalised_a_hard_network_keeps_the_accuracy_of_the_ordinary_one():
    model = tiny_graph()
    hard = spoilt(model, {"relu1": [1.0, 1024.0] + [1.0] * 6, "relu2": [512.0] + [1.0] * 15})
    np.testing.assert_array_equal(run(hard, UNSEEN), run(model, UNSEEN))
    factors = find_factors(hard, maxima(hard))
    assert set(factors) == {"relu1", "relu2"}

    def quality(master: onnx.ModelProto, factors=None) -> float:
        table = collect(equalise(master, factors or {}), [IMAGES]).table("minmax")
        table = replace(table, weights=weights_digest(master), equalisation=factors or {})
        return sqnr(run(master, UNSEEN), run(quantise(master, table, "tensorrt"), UNSEEN, optimised=False))

    ordinary, spoiled, equalised = quality(model), quality(hard), quality(hard, factors)
    assert spoiled < 5
    assert equalised > ordinary - 2


def test_a_large_constant_that_stays_is_taken_over_unread():
    """Its bytes come along even where they are no values: what isn't scaled isn't decoded."""
    model = conv_pool_conv()
    odd = numpy_helper.from_array(weight(4, 4), "odd")
    odd.raw_data = odd.raw_data[:-3]
    model.graph.initializer.append(odd)
    assert equalise(model, random_factors(model)).graph.initializer[-1] == odd
