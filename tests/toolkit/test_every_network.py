"""Every network of the registry: exported, verified, built with TensorRT for RTX in its precisions, audited, cached.

A member of a family that differs from another only in depth is built in INT8 only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.collect import collect
from calibration.placement.tensorrt import FP8_KERNEL_SIZE
from engines.files import digest_file
from engines.header import read_header
from engines.passport import Passport
from export.graph import save_graph
from export.models.registry import ARCHITECTURES
from export.onnx_export import to_onnx
from export.verification import Verification
from export.verify import verify
from tests.toolkit.families import CLASSES, described, pictures, settled
from toolkit.building.ranges import table_path
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")

PRECISIONS = ("fp32", "fp16", "int8", "fp8")

DEEPER = {name for name in ARCHITECTURES if name.startswith(("vgg", "resnet"))} - {"vgg11-bn", "resnet18", "resnet50"}
"""What those three stand for."""

NETWORKS = [name for name in ARCHITECTURES if name not in {"vgg13", "vgg13-bn", "vgg16", "vgg19-bn"}]
"""Between those of the four and their neighbours lies a repetition of layers: CI's minutes are for others."""

BUILDS = [
    (name, precision) for name in NETWORKS for precision in PRECISIONS if precision == "int8" or name not in DEEPER
]

CACHED = [build for build in BUILDS if build[0].startswith("alexnet")]
"""What is built again, from the cache: that doesn't depend on the network."""


@dataclass(frozen=True)
class Network:
    """A master graph with a calibration table for each quantised precision beside it.

    Attributes:
        graph: its file.
        layers: its convolutions and matrix products.
        large: the convolutions whose filters no FP8 kernel has.
        verification: what the graph computes against what PyTorch does.
    """

    graph: Path
    layers: frozenset[str]
    large: frozenset[str]
    verification: Verification


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    metadata = described(name)
    module = settled(name)
    model = to_onnx(module, metadata)
    verification = verify(module, model, metadata, batch_sizes=(2,))
    graph = folder / f"{name}.onnx"
    save_graph(model, graph)
    preprocess = metadata.preprocess
    table = collect(model, [preprocess.normalise(pictures(preprocess, 4))]).table("minmax")
    for precision in ("int8", "fp8"):
        replace(table, precision=precision).write(table_path(graph, precision))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    heavy = [node for node in model.graph.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    names = frozenset(node.name for node in heavy)
    return Network(graph, names, frozenset(_large(heavy, shapes)), verification)


def _large(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for node in nodes:
        if node.op_type == "Conv" and np.prod(shapes[node.input[1]][2:]) > FP8_KERNEL_SIZE:
            yield node.name


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_the_graph_computes_what_the_network_computes(network: Network) -> None:
    assert network.verification.passed, network.verification.summary()


@pytest.mark.parametrize(("network", "precision"), BUILDS, indirect=["network"])
def test_every_layer_has_the_precision_asked_for(precision: str, network: Network) -> None:
    report = build_engine(network.graph, precision=precision, backend="tensorrt-rtx")
    kept = network.large if precision == "fp8" else frozenset()
    types = {layer.label: layer.type for layer in report.layers.heavy}
    assert types == {name: "fp16" if name in kept else precision for name in network.layers}
    assert set(report.kept) == kept
    passport = Passport.read(report.passport)
    header = read_header(report.engine)
    assert (passport.backend, passport.precision, passport.partial) == ("tensorrt-rtx", precision, ())
    assert passport.size == header.size == report.engine.stat().st_size
    assert passport.layers == report.layers.to_json()
    assert passport.outputs[0].shape == ("batch", CLASSES)


@pytest.mark.parametrize(("network", "precision"), CACHED, indirect=["network"])
def test_the_second_build_comes_from_the_cache_and_is_the_same_engine(precision: str, network: Network) -> None:
    first = build_engine(network.graph, precision=precision, backend="tensorrt-rtx")
    before = first.engine.read_bytes()
    for path in (first.engine, first.passport):
        path.unlink()
    again = build_engine(network.graph, precision=precision, backend="tensorrt-rtx")
    assert again.cached
    assert again.engine.read_bytes() == before
    assert again.layers == first.layers
    assert Passport.read(again.passport).digest == digest_file(again.engine)
