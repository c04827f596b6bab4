"""Every network of the registry in every precision, built with TensorRT for RTX and audited, then cached."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from calibration.collect import collect
from calibration.placement.tensorrt import FP8_KERNEL_SIZE
from engines.files import digest_file
from engines.header import read_header
from engines.metadata import ModelMetadata
from engines.passport import Passport
from export.graph import save_graph
from export.models.registry import ARCHITECTURES, build, preprocess_for
from export.onnx_export import to_onnx
from toolkit.building.ranges import table_path
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")

CLASSES = 10
SMALL = {"alexnet": 64}
"""Pixels for the networks that take other sizes than their own."""

WIDE, NARROW = 4096, 64
"""What hidden linear layers have, and what they get here: no other operator, a twentieth of the weights."""


@dataclass(frozen=True)
class Network:
    """A master graph with a calibration table for each quantised precision beside it.

    Attributes:
        graph: its file.
        layers: its convolutions and matrix products.
        large: the convolutions whose filters no FP8 kernel has.
    """

    graph: Path
    layers: frozenset[str]
    large: frozenset[str]


def narrowed(module: nn.Module) -> nn.Module:
    """The same network with narrow hidden linear layers."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                sizes = (NARROW if size == WIDE else size for size in (child.in_features, child.out_features))
                setattr(parent, name, nn.Linear(*sizes))
    return module.eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    torch.manual_seed(0)
    preprocess = preprocess_for(name)
    size = SMALL.get(name, preprocess.height)
    preprocess = replace(preprocess, height=size, width=size)
    metadata = ModelMetadata(name, tuple(map(str, range(CLASSES))), preprocess)
    model = to_onnx(narrowed(build(name, CLASSES)), metadata)
    graph = folder / f"{name}.onnx"
    save_graph(model, graph)
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, preprocess.channels), dtype=np.uint8)
    table = collect(model, [preprocess.normalise(pixels)]).table("minmax")
    for precision in ("int8", "fp8"):
        replace(table, precision=precision).write(table_path(graph, precision))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    heavy = [node for node in model.graph.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    return Network(graph, frozenset(node.name for node in heavy), frozenset(_large(heavy, shapes)))


def _large(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for node in nodes:
        if node.op_type == "Conv" and np.prod(shapes[node.input[1]][2:]) > FP8_KERNEL_SIZE:
            yield node.name


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
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


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
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
