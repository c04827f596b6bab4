"""Real records that tests of reading, merging and continuing share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.passport import Passport, passport_path
from tests.tiny import METADATA, tiny_graph, tiny_images
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.comparison.records.record import Comparison
from toolkit.steps.bench import bench
from toolkit.steps.compare import compare

QUICK = {"batch_sizes": (1, 4), "seconds": 0.004, "rounds": 8, "update_passports": False}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a.onnx``, ``b.onnx`` with a passport, two engines for openers of their own, ``data.npz`` with 40 images."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a.onnx", "b.onnx")):
        onnx.save(tiny_graph(seed=seed), folder / name)
    made = Passport.of(
        folder / "b.onnx", backend="onnxruntime", precision="fp32", command="toolkit build-engine", metadata=METADATA
    )
    replace(made, layers={"source": "graph", "shares": {"fp32": 1.0}, "layers": []}).with_measurements(
        speed={"batches": []}
    ).write(passport_path(folder / "b.onnx"))
    for name in ("other.engine", "gpu.engine"):
        (folder / name).write_bytes(name.encode())
    images = tiny_images(40, seed=3)
    names = np.array(METADATA.labels)
    labels = np.arange(40) % len(names)
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, labels=names)
    return folder


@pytest.fixture(scope="session")
def whole(models: Path) -> Comparison:
    """A comparison with everything in it: a passport, a device apart, an engine that can't run, disagreements."""
    artifacts = [
        models / "a.onnx",
        models / "b.onnx",
        Contestant(str(models / "gpu.engine"), opener=f"{HERE}:on_device"),
        Contestant(str(models / "other.engine"), opener=f"{HERE}:refusing"),
    ]
    return compare(artifacts, models / "data.npz", goal="latency", **QUICK)


@pytest.fixture(scope="session")
def timed(models: Path) -> Comparison:
    """Speed alone."""
    return bench(models / "a.onnx", **QUICK)
