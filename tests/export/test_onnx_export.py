"""PyTorch to ONNX, with real small networks: what the graph looks like and that it computes the same."""

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from engines.errors import BuildError, InputError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.exportable import adaptive_average_pool, exportable
from export.graph import attribute, inputs, module_of, outputs, read_metadata
from export.onnx_export import OPSETS, to_onnx


class Small(nn.Module):
    """An AlexNet in miniature: LRN, groups, dropout, adaptive pooling to 3×3."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 16, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(144, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def metadata(size: int = 28, **options: object) -> ModelMetadata:
    return ModelMetadata("small", tuple("abcd"), Preprocess(size, size, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def graph(small: nn.Module) -> onnx.ModelProto:
    return to_onnx(small, metadata())


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], {"input": x})[0]
    return result


def torch_logits(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = module(torch.from_numpy(x)).numpy()
    return result


def test_the_graph_has_the_modules_nodes_and_their_names(graph: onnx.ModelProto) -> None:
    assert [(node.name, node.op_type) for node in graph.graph.node] == [
        ("features.0", "Conv"),
        ("features.1", "Relu"),
        ("features.2", "LRN"),
        ("features.3", "MaxPool"),
        ("features.4", "Conv"),
        ("features.5", "Relu"),
        ("avgpool", "AveragePool"),
        ("reshape", "Reshape"),
        ("classifier.1", "Gemm"),
        ("classifier.2", "Relu"),
        ("classifier.4", "Gemm"),
    ]
    assert [module_of(node) for node in graph.graph.node if node.op_type == "Gemm"] == [
        "classifier.1",
        "classifier.4",
    ]
    assert all(node.output[0] == node.name for node in graph.graph.node[:-1])


def test_input_output_opset_and_metadata_are_the_contracts(graph: onnx.ModelProto) -> None:
    assert inputs(graph) == (TensorSpec("input", "float32", ("batch", 3, 28, 28)),)
    assert outputs(graph) == (TensorSpec("logits", "float32", ("batch", 4)),)
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", 20)]
    assert read_metadata(graph) == metadata()
    assert not graph.functions


def test_nothing_of_this_machine_is_in_the_graph(graph: onnx.ModelProto) -> None:
    data = graph.SerializeToString()
    for trace in (b"stack_trace", b"pkg.torch", b".py", b"/home", b"torch.nn"):
        assert trace not in data


def test_the_weights_are_the_modules_own_bit_for_bit(small: nn.Module, graph: onnx.ModelProto) -> None:
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name, parameter in small.named_parameters():
        np.testing.assert_array_equal(stored[name], parameter.detach().numpy())


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_any_batch_gives_pytorchs_logits(small: nn.Module, graph: onnx.ModelProto, batch: int) -> None:
    x = np.random.default_rng(batch).normal(0, 1, (batch, 3, 28, 28)).astype(np.float32)
    expected = torch_logits(small, x)
    np.testing.assert_allclose(run(graph, x), expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def test_lrn_is_onnxs_own_with_the_modules_parameters(small: nn.Module, graph: onnx.ModelProto) -> None:
    (lrn,) = [node for node in graph.graph.node if node.op_type == "LRN"]
    found = {name: attribute(lrn, name) for name in ("size", "alpha", "beta", "bias")}
    assert found == {"size": 5, "alpha": pytest.approx(1e-4), "beta": pytest.approx(0.75), "bias": pytest.approx(2.0)}


@pytest.mark.parametrize("size", [3, 4])
def test_lrn_of_any_window_computes_what_pytorch_does(size: int) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 7, 1), nn.LocalResponseNorm(size, 0.5, 0.6, 1.5), nn.Flatten()).eval()
    model = to_onnx(module, metadata(4))
    assert ("LRN" in {node.op_type for node in model.graph.node}) == (size % 2 == 1)
    x = np.random.default_rng(0).normal(0, 2, (3, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), torch_logits(module, x), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets_compute_the_same(small: nn.Module, graph: onnx.ModelProto, opset: int) -> None:
    model = to_onnx(small, metadata(), opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    assert [node.name for node in model.graph.node] == [node.name for node in graph.graph.node]
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 28, 28)).astype(np.float32)
    np.testing.assert_array_equal(run(model, x), run(graph, x))


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_an_opset_that_cannot_be_written_is_refused(small: nn.Module, opset: int) -> None:
    with pytest.raises(InputError, match=rf"opset {opset} can't be written"):
        to_onnx(small, metadata(), opset=opset)


def test_a_graph_that_takes_pixels_equals_one_that_takes_floats(small: nn.Module, graph: onnx.ModelProto) -> None:
    model = to_onnx(small, metadata(), uint8_input=True)
    assert inputs(model) == (TensorSpec("input", "uint8", ("batch", 28, 28, 3)),)
    stored = read_metadata(model)
    assert stored is not None
    assert stored.uint8_input
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), np.uint8)
    np.testing.assert_array_equal(run(model, pixels), run(graph, metadata().preprocess.normalise(pixels)))


def test_the_module_is_as_it_was_afterwards(small: nn.Module) -> None:
    small.train()
    small.features.eval()
    modes = [part.training for part in small.modules()]
    to_onnx(small, metadata())
    assert [part.training for part in small.modules()] == modes
    assert not any("forward" in vars(part) for part in small.modules())
    small.eval()


def test_exporting_prints_nothing_and_warns_of_nothing(small: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(small, metadata())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sizes", list(itertools.product((1, 3, 6, 7, 8, 11), (2, 4, 6, 13))))
@pytest.mark.parametrize("target", [6, (3, 5), (None, 2), 1])
def test_adaptive_pooling_on_a_known_size_equals_pytorchs(
    sizes: tuple[int, int], target: int | tuple[int | None, int]
) -> None:
    x = torch.randn(2, 3, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.adaptive_avg_pool2d(x, target)
    torch.testing.assert_close(adaptive_average_pool(x, target), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("size", "operators"),
    [(6, []), (7, ["AveragePool"]), (3, ["Resize"]), (11, ["MatMul"] * 2)],
)
def test_adaptive_pooling_is_exported_with_plain_operators(size: int, operators: list[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten()).eval()
    model = to_onnx(module, metadata(size))
    assert [node.op_type for node in model.graph.node] == ["Conv", *operators, "Reshape"]
    x = np.random.default_rng(0).normal(0, 1, (3, 3, size, size)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), torch_logits(module, x), rtol=0, atol=2e-6)


def test_modules_compute_as_before_within_and_after_the_rewriting() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(6), nn.Flatten()).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = module(x)
    with exportable(module):
        torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


def test_a_size_that_the_network_cannot_take_is_told_with_its_reason() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(InputError, match=r"can't take 3x9x9 images: mat1 and mat2") as caught:
        to_onnx(module, metadata(9))
    assert "--input-size" in caught.value.remedy


def test_a_network_that_gives_no_logits_is_refused() -> None:
    with pytest.raises(InputError, match=r"gives \[2, 4, 9, 9\] for two images"):
        to_onnx(nn.Conv2d(3, 4, 1), metadata(9))


class _Lambda(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(12, 4), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x.flatten(1)))


def test_a_batch_size_baked_into_the_network_is_an_error_that_says_so() -> None:
    with pytest.raises(BuildError, match="fixed batch of 2") as caught:
        to_onnx(_Lambda(lambda x: x.reshape(2, 4)), metadata(2))
    assert "the batch stays free" in caught.value.remedy


def test_control_flow_that_depends_on_values_is_an_error() -> None:
    with pytest.raises(BuildError, match="can't export this network"):
        to_onnx(_Lambda(lambda x: x if float(x.sum()) > 0 else -x), metadata(2))
