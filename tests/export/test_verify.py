"""Verification: right graphs pass, and each kind of wrong one fails for its own reason."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from engines.errors import GraphError, InputError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export import reference
from export.graph import save_graph
from export.onnx_export import to_onnx
from export.precision import to_half
from export.verification import MULTIPLE, Verification
from export.verify import batch_sizes_up_to, verify

SIZE = 12
METADATA = ModelMetadata("net", tuple("abcd"), Preprocess(SIZE, SIZE))
SIZES = (1, 2, 7, 9)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 4),
    )  # fmt: skip
    return net.eval()


@pytest.fixture(scope="module")
def exported(module: nn.Module) -> onnx.ModelProto:
    return to_onnx(module, METADATA)


@pytest.fixture
def graph(exported: onnx.ModelProto) -> onnx.ModelProto:
    return copy.deepcopy(exported)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (4, 3, 3, 3), np.uint8).repeat(4, 1).repeat(4, 2)


def weight(graph: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def change(graph: onnx.ModelProto, name: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = weight(graph, name)
    tensor.CopyFrom(numpy_helper.from_array(function(numpy_helper.to_array(tensor)), name))


def test_the_exported_graph_passes_at_every_batch_on_random_and_real_inputs(
    module: nn.Module, graph: onnx.ModelProto, images: np.ndarray
) -> None:
    result = verify(module, graph, METADATA, images=images, batch_sizes=SIZES)
    assert result.passed
    assert not result.problems
    assert [(item.inputs, item.batch) for item in result.measurements] == [
        (kind, batch) for kind in ("random", "real") for batch in SIZES
    ]
    assert 0 < result.worst < MULTIPLE
    assert result.summary()[-1] == "verified"
    assert result.to_json()["worst"] == result.worst


def test_distance_and_noise_equal_an_independent_computation(module: nn.Module, graph: onnx.ModelProto) -> None:
    import onnxruntime

    result = verify(module, graph, METADATA, batch_sizes=(3,), seed=11)
    pixels = np.random.default_rng(11).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    x = METADATA.preprocess.normalise(pixels)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(torch.from_numpy(x).double()).numpy()
        single = module(torch.from_numpy(x)).numpy()
        repeated = module(torch.from_numpy(x[np.arange(32) % 3])).numpy()
    logits = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"input": x})[0]
    (item,) = result.measurements
    assert item.distance == pytest.approx(np.abs(logits - exact).max(), rel=1e-9)
    # A batch of three is measured among 32 too: what three samples are off by alone is chance.
    noise = max(np.abs(single - exact).max(), np.abs(repeated - exact[np.arange(32) % 3]).max())
    assert item.noise == pytest.approx(max(noise, np.abs(exact).max() * 2.0**-23), rel=1e-9)


def test_a_graph_on_disk_and_one_that_takes_pixels_pass_too(
    module: nn.Module, graph: onnx.ModelProto, images: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "graph.onnx"
    save_graph(graph, path, inline_limit=1000)
    assert verify(module, path, METADATA, images=images, batch_sizes=SIZES).passed
    pixels = to_onnx(module, METADATA, uint8_input=True)
    assert verify(module, pixels, METADATA, images=images, batch_sizes=SIZES).passed


@pytest.mark.parametrize(
    ("name", "factor"), [("0.weight", 1 + 1e-4), ("8.bias", 1 + 1e-3), ("6.weight", 1 - 1e-4), ("3.weight", 1.01)]
)
def test_weights_that_are_off_by_a_little_fail(
    module: nn.Module, graph: onnx.ModelProto, name: str, factor: float
) -> None:
    change(graph, name, lambda values: (values * factor).astype(np.float32))
    result = verify(module, graph, METADATA, batch_sizes=(1, 2))
    assert not result.passed
    assert "noise floors" in result.problems[0]
    assert result.worst > MULTIPLE
    assert result.summary()[-1] == "NOT verified"


def test_another_mean_in_a_graph_that_normalises_itself_fails(module: nn.Module) -> None:
    other = replace(METADATA, pictures=replace(METADATA.preprocess, mean=(0.485, 0.456, 0.405)))
    pixels = to_onnx(module, other, uint8_input=True)
    assert not verify(module, pixels, METADATA, batch_sizes=(2,)).passed


def test_a_batch_baked_into_the_input_fails_and_says_so(module: nn.Module, graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    result = verify(module, graph, METADATA, batch_sizes=SIZES)
    assert not result.passed
    assert "batch size 2 is baked into the graph" in result.problems[0]


def test_a_batch_baked_into_a_reshape_fails_at_the_other_sizes(module: nn.Module, graph: onnx.ModelProto) -> None:
    flatten = next(node for node in graph.graph.node if node.op_type == "Reshape")
    change(graph, flatten.input[1], lambda _: np.array([2, 576]))
    result = verify(module, graph, METADATA, batch_sizes=(1, 2, 7))
    assert not result.passed
    assert [item.batch for item in result.measurements] == [2]
    assert "a batch of 1:" in result.problems[0]
    assert "a batch of 7:" in result.problems[1]


def test_nan_another_shape_and_several_outputs_fail(module: nn.Module, graph: onnx.ModelProto) -> None:
    broken = copy.deepcopy(graph)
    change(broken, "8.bias", lambda values: values * np.float32(np.nan))
    assert "gives NaN" in verify(module, broken, METADATA, batch_sizes=(2,)).problems[0]
    wide = copy.deepcopy(graph)
    change(wide, "8.bias", lambda values: np.append(values, values[:1]))
    change(wide, "8.weight", lambda values: np.append(values, values[:1], axis=0))
    wide.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert "gives [2, 5], PyTorch [2, 4]" in verify(module, wide, METADATA, batch_sizes=(2,)).problems[0]
    graph.graph.output.append(helper.make_tensor_value_info("0", onnx.TensorProto.FLOAT, None))
    assert "1 inputs and 2 outputs" in verify(module, graph, METADATA, batch_sizes=(2,)).problems[0]


def test_a_graph_for_another_size_fails(module: nn.Module, graph: onnx.ModelProto) -> None:
    other = replace(METADATA, pictures=Preprocess(SIZE, SIZE + 4))
    assert "the graph's input is input: float32" in verify(module, graph, other, batch_sizes=(2,)).problems[0]


def test_top_1_differs_harmlessly_in_a_tie_and_harmfully_beyond_the_noise() -> None:
    """Logits of [0, margin] from PyTorch, and a graph with the two swapped."""

    def linear(margin: float) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))
        nn.init.zeros_(net[1].weight)
        with torch.no_grad():
            net[1].bias.copy_(torch.tensor([1.0, 1.0 + margin]))
        return net.eval()

    swapped = ModelMetadata("net", ("a", "b"), METADATA.preprocess)
    for margin, failures in ((2.0**-23, 0), (2.0**-20, 3)):
        net = linear(margin)
        graph = to_onnx(net, swapped)
        change(graph, "1.bias", lambda values: values[::-1].copy())
        (item,) = verify(net, graph, swapped, batch_sizes=(3,)).measurements
        assert (item.flips, item.failures) == (3, failures)


def test_an_fp16_graph_is_held_against_the_noise_of_fp16(module: nn.Module, graph: onnx.ModelProto) -> None:
    half = to_half(graph, "fp16")
    single = verify(module, graph, METADATA, batch_sizes=(1, 7))
    result = verify(module, half, METADATA, batch_sizes=(1, 7))
    assert result.passed
    assert 1000 < result.measurements[0].noise / single.measurements[0].noise < 100_000
    change(half, "3.weight", lambda values: (values * 1.05).astype(np.float16))
    assert not verify(module, half, METADATA, batch_sizes=(1, 7)).passed


def test_rounding_is_simulated_as_the_half_graph_rounds(module: nn.Module) -> None:
    half = reference.rounded(module, "fp16")
    for name, tensor in half.named_parameters():
        expected = dict(module.named_parameters())[name].detach().numpy().astype(np.float16)
        np.testing.assert_array_equal(tensor.detach().numpy(), expected.astype(np.float32))
    logits = reference.run(half, np.ones((2, 3, SIZE, SIZE), np.float32), 2)
    np.testing.assert_array_equal(logits, logits.astype(np.float16))


def test_a_quantised_graph_is_sent_to_compare(module: nn.Module, graph: onnx.ModelProto) -> None:
    gemm = next(node for node in graph.graph.node if node.name == "8")
    graph.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    nodes = []
    for node in list(graph.graph.node):
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        if node.name == gemm.name:
            for position in (0, 1):
                name = node.input[position]
                nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}.q"]))
                nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", "s", "z"], [f"{name}.d"]))
                copied.input[position] = f"{name}.d"
        nodes.append(copied)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    with pytest.raises(InputError, match="quantised graph") as caught:
        verify(module, graph, METADATA)
    assert "toolkit compare" in caught.value.remedy


def test_the_module_and_the_graph_are_not_changed(module: nn.Module, exported: onnx.ModelProto) -> None:
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = exported.SerializeToString()
    verify(module, exported, METADATA, batch_sizes=(2,))
    assert exported.SerializeToString() == before
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name])


def test_pictures_of_another_size_and_no_batch_sizes_are_refused(module: nn.Module, graph: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="real pictures must be uint8"):
        verify(module, graph, METADATA, images=np.zeros((2, SIZE, SIZE + 1, 3), np.uint8))
    with pytest.raises(InputError, match="no batch sizes"):
        verify(module, graph, METADATA, batch_sizes=())


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 5)), (7, (1, 2, 7)), (32, (1, 2, 7, 32))]
)
def test_batch_sizes_end_at_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes_up_to(largest) == sizes


def test_a_verification_survives_json_and_damage_is_named(module: nn.Module, graph: onnx.ModelProto) -> None:
    result = verify(module, graph, METADATA, batch_sizes=(1, 2))
    assert Verification.from_json(json.loads(json.dumps(result.to_json()))) == result
    with pytest.raises(GraphError, match="record of the verification"):
        Verification.from_json({"passed": True})
