"""AlexNet with all of its 57 million weights: built in every precision, and given back at once the second time."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.collect import collect
from engines.metadata import ModelMetadata
from engines.passport import Passport
from export.graph import save_graph
from export.models.registry import build, preprocess_for
from export.onnx_export import to_onnx
from toolkit.building.ranges import table_path
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")

AT_ONCE = 0.3
"""Seconds that a build out of the cache may take, typing included."""

FIRST = "features.0"
"""The convolution of 11×11 weights, for which there is no FP8 kernel."""


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """228 MB, with calibration tables beside it; small pictures, since they cost time and no weights."""
    graph = tmp_path_factory.mktemp("alexnet") / "alexnet.onnx"
    torch.manual_seed(0)
    preprocess = replace(preprocess_for("alexnet"), height=64, width=64)
    model = to_onnx(build("alexnet", 10).eval(), ModelMetadata("alexnet", tuple("0123456789"), preprocess))
    save_graph(model, graph)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    table = collect(model, [preprocess.normalise(pixels)]).table("minmax")
    for precision in ("int8", "fp8"):
        replace(table, precision=precision).write(table_path(graph, precision))
    return graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_the_second_build_takes_no_time(precision: str, master: Path) -> None:
    first = build_engine(master, precision=precision, backend="tensorrt-rtx")
    assert not first.cached
    assert {layer.label: layer.type for layer in first.layers.heavy if layer.type != precision} == (
        {FIRST: "fp16"} if precision == "fp8" else {}
    )
    assert len(first.layers.heavy) == 8
    first.engine.unlink()
    took = []
    for _ in range(3):  # the first writes the engine again; this machine may be busy
        start = time.perf_counter()
        again = build_engine(master, precision=precision, backend="tensorrt-rtx")
        took.append(time.perf_counter() - start)
        assert again.cached
    assert min(took) < AT_ONCE
    assert Passport.read(again.passport).digest == Passport.read(first.passport).digest
    assert again.layers == first.layers
    for path in (first.engine, first.typed_graph):  # they are large
        if path != master:
            path.unlink()
