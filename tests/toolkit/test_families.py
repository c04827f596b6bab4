"""Q/DQ of residual additions and of concatenations: where the graphs have it, and what the libraries make of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest

from calibration.collect import collect
from calibration.lint import lint
from calibration.qdq import quantise
from calibration.table import CalibrationTable
from engines.builders.audit import Layer, LayerReport
from engines.builders.tensorrt import build_plan
from engines.metadata import ModelMetadata
from export.graph import save_graph
from export.onnx_export import to_onnx
from export.structure import consumers, producers, topological_sort
from tests.toolkit.families import described, pictures, settled

SIZE = 64
"""Pixels: large enough that no pool has a window of one pixel."""


@dataclass(frozen=True)
class Network:
    """A network, its master graph, and ranges from some pictures.

    Attributes:
        metadata: of the graph.
        model: the master graph.
        table: INT8 ranges.
        images: float32 [8, C, H, W], what the ranges are of.
    """

    metadata: ModelMetadata
    model: onnx.ModelProto
    table: CalibrationTable
    images: np.ndarray

    def quantised(self, target: str, remainder: Literal["fp16", "fp32"] = "fp32") -> "Graph":
        return Graph(quantise(self.model, self.table, target, remainder=remainder))


class Graph:
    """A graph to be walked through."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.made_by = producers(model.graph)
        self.read_by = consumers(model.graph)
        self.nodes = {node.name: node for node in model.graph.node}

    def of(self, operator: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == operator]

    def maker(self, tensor: str) -> str:
        """The operator that makes a tensor."""
        return self.made_by[tensor].op_type

    def source(self, tensor: str) -> str:
        """What a dequantised tensor was before it was quantised."""
        quantise = self.made_by[self.made_by[tensor].input[0]]
        assert quantise.op_type == "QuantizeLinear"
        return quantise.input[0]

    def scale(self, tensor: str) -> float:
        """The scale of a dequantised tensor."""
        constants = {item.name: item for item in self.model.graph.initializer}
        return float(onnx.numpy_helper.to_array(constants[self.made_by[tensor].input[1]]))


def make(name: str) -> Network:
    metadata = described(name, SIZE)
    model = to_onnx(settled(name, SIZE), metadata)
    images = metadata.preprocess.normalise(pictures(metadata.preprocess, 8))
    return Network(metadata, model, collect(model, [images]).table("minmax"), images)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return make("resnet18")


@pytest.fixture(scope="module")
def googlenet() -> Network:
    return make("googlenet")


def run(model: onnx.ModelProto, images: np.ndarray, *, plainly: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if plainly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"input": images})[0]
    return result


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to noise in dB."""
    return float(10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum()))


# ---- residual additions, for TensorRT


def test_of_a_residual_addition_the_skip_alone_is_quantised_and_nothing_lies_before_the_relu(resnet: Network) -> None:
    graph = resnet.quantised("tensorrt")
    additions = graph.of("Add")
    assert len(additions) == 8
    for add in additions:
        fresh, skip = add.input
        assert (graph.maker(fresh), graph.maker(skip)) == ("Conv", "DequantizeLinear")
        assert [node.op_type for node in graph.read_by[fresh]] == ["Add"]
        assert [node.op_type for node in graph.read_by[add.output[0]]] == ["Relu"]
    assert lint(graph.model) == []


def test_a_skip_is_the_blocks_input_or_its_projection_quantised_once(resnet: Network) -> None:
    graph = resnet.quantised("tensorrt")
    for stage in (1, 2, 3, 4):
        first, second = (graph.nodes[f"layer{stage}.{block}"] for block in (0, 1))
        entry = graph.nodes[f"layer{stage}.0.bn1"]
        if stage == 1:  # an identity: the tensor that the block's first convolution reads, dequantised once
            assert first.input[1] == entry.input[0]
        else:  # its own pair, and none on what it is added to
            assert graph.made_by[graph.source(first.input[1])].name == f"layer{stage}.0.downsample.1"
            assert graph.nodes[f"layer{stage}.0.downsample.1"].input[0] == entry.input[0]
        assert second.input[1] == graph.nodes[f"layer{stage}.1.bn1"].input[0]
    sources = [node.input[0] for node in graph.of("QuantizeLinear")]
    assert len(sources) == len(set(sources))  # no tensor is quantised twice


def test_the_average_before_the_classifier_stays_float_and_is_quantised_behind(resnet: Network) -> None:
    graph = resnet.quantised("tensorrt")
    (pool,) = graph.of("AveragePool")
    assert graph.maker(pool.input[0]) == "Relu"
    assert graph.source(graph.nodes["fc"].input[0]) == "reshape"


# ---- concatenations, for TensorRT


def test_branches_join_unquantised_and_each_joined_tensor_is_quantised_once_for_all_readers(
    googlenet: Network,
) -> None:
    graph = googlenet.quantised("tensorrt")
    assert len(graph.of("Concat")) == 9
    for concat in graph.of("Concat"):
        assert [graph.maker(name) for name in concat.input] == ["Relu"] * 4
        readers = graph.read_by[concat.output[0]]
        assert [node.op_type for node in readers] in (["QuantizeLinear"], ["MaxPool"], ["AveragePool"])
        if readers[0].op_type == "QuantizeLinear":
            (dequantised,) = graph.read_by[readers[0].output[0]]
            kinds = sorted(node.op_type for node in graph.read_by[dequantised.output[0]])
            assert kinds == ["Conv", "Conv", "Conv", "MaxPool"]
    assert lint(graph.model) == []


def test_a_pool_whose_reader_is_kept_float_reads_floats(googlenet: Network) -> None:
    kept = "inception3b.branch4.1.bn"
    graph = Graph(quantise(googlenet.model, googlenet.table, "tensorrt", keep=[kept], remainder="fp32"))
    pools = [node for node in graph.of("MaxPool") if "branch4" in node.name]
    floats = [pool.name for pool in pools if graph.maker(pool.input[0]) != "DequantizeLinear"]
    assert floats == ["inception3b.branch4.0"]
    assert graph.maker(graph.nodes[kept].input[0]) == "MaxPool"


def test_a_pool_branch_pools_quantised_numbers_with_one_scale_which_changes_no_value(googlenet: Network) -> None:
    graph = googlenet.quantised("tensorrt")
    branches = [node for node in graph.of("MaxPool") if "branch4" in node.name]
    assert len(branches) == 9
    for pool in branches:
        (quantised,) = graph.read_by[pool.output[0]]
        (dequantised,) = graph.read_by[quantised.output[0]]
        assert graph.scale(dequantised.output[0]) == graph.scale(pool.input[0])
    found = run(graph.model, googlenet.images, plainly=True)
    for pool in branches:  # the same graph with those pools before the rounding
        pool.input[0] = graph.source(pool.input[0])
    assert np.array_equal(found, run(graph.model, googlenet.images, plainly=True))


@pytest.mark.parametrize(("name", "least"), [("resnet", 17.0), ("googlenet", 5.0)])
def test_the_int8_graphs_lose_no_more_than_rounding_does(
    name: str, least: float, request: pytest.FixtureRequest
) -> None:
    # Random weights amplify rounding from layer to layer: ONNX Runtime's own quantize_static came to 21 and 9 dB on
    # these networks and pictures.
    network: Network = request.getfixturevalue(name)
    reference = run(network.model, network.images)
    for target in ("tensorrt", "onnxruntime"):
        assert snr(reference, run(network.quantised(target).model, network.images, plainly=True)) > least


# ---- what TensorRT for RTX makes of it


def layers_of(model: onnx.ModelProto, folder: Path) -> LayerReport:
    pytest.importorskip("tensorrt_rtx")
    save_graph(model, folder / "typed.onnx")
    return build_plan(folder / "typed.onnx", "tensorrt-rtx").layers


def kernels_of(report: LayerReport, node: str) -> list[Layer]:
    """The generated kernels that compute ``node`` or a part of it."""
    return [layer for layer in report.layers if node in layer.nodes]


def roundings(report: LayerReport) -> int:
    """How often the generated kernels round: their names tell their steps."""
    return sum(layer.name.count("Roun") for layer in report.layers)


def quantised_twice(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with both inputs of every Add quantised, which is a common mistake."""
    graph = Graph(model)
    for add in graph.of("Add"):
        dequantise = graph.made_by[add.input[1]]
        quantise = graph.made_by[dequantise.input[0]]
        fresh = add.input[0]
        for node, source in ((quantise, fresh), (dequantise, f"{fresh}.q")):
            name = f"{fresh}.q" if node is quantise else f"{fresh}.dq"
            model.graph.node.add(op_type=node.op_type, name=name, input=[source, *node.input[1:]], output=[name])
        add.input[0] = f"{fresh}.dq"
    topological_sort(model.graph)
    return model


def test_the_engine_adds_and_requantises_in_one_kernel_behind_int8_convolutions(
    resnet: Network, tmp_path: Path
) -> None:
    ours = layers_of(resnet.quantised("tensorrt", "fp16").model, tmp_path)
    assert ours.shares() == {"int8": 1.0}
    assert len(ours.heavy) == 21
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            (kernel,) = kernels_of(ours, f"layer{stage}.{block}")
            assert f"layer{stage}.{block}.bn2" in kernel.nodes  # the convolution's scale and bias
            projected, last = stage > 1 and block == 0, (stage, block) == (4, 1)
            assert kernel.name.count("Roun") == (0 if last else 1) + projected, kernel.name
    bad = layers_of(quantised_twice(resnet.quantised("tensorrt", "fp16").model), tmp_path)
    assert bad.shares() == {"int8": 1.0}  # the audit alone wouldn't tell
    assert roundings(bad) == roundings(ours) + 8


def test_the_engine_joins_and_requantises_in_one_kernel_and_computes_every_pool_once_in_int8(
    googlenet: Network, tmp_path: Path
) -> None:
    report = layers_of(googlenet.quantised("tensorrt", "fp16").model, tmp_path)
    assert report.shares() == {"int8": 1.0}
    assert len(report.heavy) == 58
    pools = [layer for layer in report.layers if layer.name.endswith("_pooling")]
    assert [layer.type for layer in pools] == ["int8"] * 13
    for block in ("3a", "4b", "5a"):
        (kernel,) = kernels_of(report, f"inception{block}")
        assert {f"inception{block}.branch{branch}.relu" for branch in ("1", "2.1", "3.1", "4.1")} <= set(kernel.nodes)


@pytest.mark.parametrize("name", ["resnet", "googlenet"])
def test_in_fp8_everything_runs_in_fp8_but_the_first_convolution_of_49_weights(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    network: Network = request.getfixturevalue(name)
    model = quantise(network.model, replace(network.table, precision="fp8"), "tensorrt")
    report = layers_of(model, tmp_path)
    others = [layer.label for layer in report.heavy if layer.type != "fp8"]
    assert others == [network.model.graph.node[0].name]
    if name == "googlenet":  # no pool reads FP8: it would run in FP16 on numbers dequantised for it alone
        graph = Graph(model)
        assert all(graph.maker(pool.input[0]) in {"Relu", "Concat", "MaxPool"} for pool in graph.of("MaxPool"))


# ---- ONNX Runtime


def operators(model: onnx.ModelProto, folder: Path) -> dict[str, int]:
    """The operators that ONNX Runtime really runs, and how many of each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]
    return {kind: kinds.count(kind) for kind in kinds}


def test_on_onnxruntime_a_resnet_runs_in_integers_from_the_first_convolution_to_the_last_product(
    resnet: Network, tmp_path: Path
) -> None:
    assert operators(resnet.quantised("onnxruntime").model, tmp_path) == {
        "QuantizeLinear": 1,
        "Transpose": 2,
        "QLinearConv": 20,
        "NhwcMaxPool": 1,
        "QLinearAdd": 8,
        "QLinearAveragePool": 1,
        "Reshape": 1,
        "QGemm": 1,
    }


def test_on_onnxruntime_a_googlenet_runs_in_integers_from_the_first_convolution_to_the_last_product(
    googlenet: Network, tmp_path: Path
) -> None:
    assert operators(googlenet.quantised("onnxruntime").model, tmp_path) == {
        "QuantizeLinear": 1,
        "Transpose": 2,
        "QLinearConv": 57,
        "NhwcMaxPool": 13,
        "QLinearConcat": 9,
        "QLinearAveragePool": 1,
        "Reshape": 1,
        "QGemm": 1,
    }
