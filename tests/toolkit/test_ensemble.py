"""Three networks as one graph: INT8 engines of it, and its probabilities, which are softmaxed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import toolkit
from engines.metadata import ModelMetadata
from engines.passport import Passport, passport_path
from export.checkpoint import load_checkpoint, save_checkpoint
from export.models.registry import build, preprocess_for
from toolkit.data import open_dataset, pixel_batches
from toolkit.steps.build import build_engine

METADATA = ModelMetadata("lenet", tuple("0123456789"), preprocess_for("lenet", 1))
COUNT = 24


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Untrained, but each sure of what it says: a second softmax would flatten that."""
    folder = tmp_path_factory.mktemp("ensemble")
    paths = [folder / f"{name}.pt" for name in "abc"]
    for seed, path in enumerate(paths):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = build("lenet", 10, 1)
        with torch.no_grad():
            list(module.parameters())[-2].mul_(25)
        save_checkpoint(path, module.eval(), METADATA)
    return paths


@pytest.fixture(scope="module")
def graph(members: list[Path]) -> Path:
    report = toolkit.export(members, ensemble=True, max_batch=2)
    assert report.verification is not None
    assert report.verification.passed
    return report.path


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    split = open_dataset("digits").test
    return next(iter(pixel_batches(split, METADATA.preprocess, COUNT)))[0]


@pytest.fixture(scope="module")
def expected(members: list[Path], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean of the members' softmaxes, computed by numpy from their logits in float64."""
    x = torch.from_numpy(METADATA.preprocess.normalise(pixels)).double()
    total = np.zeros((COUNT, 10))
    for path in members:
        with torch.no_grad():
            logits = load_checkpoint(path).module.double()(x).numpy()
        powers = np.exp(logits - logits.max(1, keepdims=True))
        total += powers / powers.sum(1, keepdims=True)
    return total / len(members)


def probabilities(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    with toolkit.load(path, device="cpu") as predictor:
        found: Any = predictor.classify(list(pixels), top=10)
    rows = np.zeros((COUNT, 10))
    for row, prediction in zip(rows, found, strict=True):
        for one in prediction.top:
            row[int(one.label)] = one.probability
    return rows


def test_the_graph_predicts_the_mean_of_the_members_probabilities(
    graph: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float64]
) -> None:
    assert graph.name == "ensemble.onnx"
    assert expected.max(1).min() > 0.3, "softmaxed twice none of ten could be above 0.24"
    np.testing.assert_allclose(probabilities(graph, pixels), expected, atol=1e-5)


def test_an_int8_engine_for_onnx_runtime_predicts_probabilities_near_it(
    graph: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float64]
) -> None:
    report = build_engine(graph, precision="int8", backend="onnxruntime", data="digits", images=32)
    assert {layer.type for layer in report.layers.heavy} == {"int8"}
    found = probabilities(report.engine, pixels)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-3)
    assert np.abs(found - expected).max() < 0.1
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_an_int8_engine_of_tensorrt_for_rtx_says_that_it_gives_probabilities(graph: Path) -> None:
    report = build_engine(graph, precision="int8", backend="tensorrt-rtx", data="digits", images=32)
    assert len(report.layers.heavy) == 15, "two convolutions and three products of each"
    assert {layer.type for layer in report.layers.heavy} == {"int8"}
    metadata = Passport.read(passport_path(report.engine)).metadata
    assert metadata is not None
    assert (metadata.scores, metadata.architecture) == ("probabilities", "ensemble of 3 lenet")
