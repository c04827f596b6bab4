"""Training, calibration, evaluation, prediction and serving see the same pictures bit for bit.

What is compared is what reached the network: in training a module that records its inputs, elsewhere a graph that
multiplies its input by the identity, so that its logits are what it was given.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import toolkit
from engines.metadata import METADATA_KEY, ModelMetadata
from engines.preprocess import Preprocess
from engines.progress import QUIET
from engines.sessions.onnxruntime import OnnxRuntimeSession
from export.recipe import Recipe
from export.training import frame_of, train
from tests.toolkit.comparison.graphs import open_entries
from tests.toolkit.server.fronts import serving
from tests.zoo import Animal, encoded, exif, noise, zoo
from toolkit.benchmarking.messages import Contestant
from toolkit.comparison.measuring.evaluate import evaluate
from toolkit.comparison.measuring.plan import Plan
from toolkit.data import Dataset, open_dataset
from toolkit.server.plane.plane import DataPlane, open_models
from toolkit.server.settings import ModelSettings, Source
from toolkit.steps.calibrate import calibrate
from toolkit.training.feed import training_data

SIDE = 14
"""Of the network's input; the frame around it is 16, for a crop fraction of 0.875."""

SPECS = {
    f"{resize}, {channels} channels": Preprocess(
        SIDE, SIDE, channels=channels, resize=resize, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.25)[:channels]
    )
    for resize in ("crop", "stretch")
    for channels in (1, 3)
}  # fmt: skip


def animals() -> list[Animal]:
    """The zoo, and photographs of odd sizes, one of them lying on its side."""
    tall, wide, tiny = noise(37, 23, 3, seed=1), noise(19, 101, 3, seed=2), noise(1, 1, 3, seed=3)
    odd = [
        Animal(f"{array.shape[1]}x{array.shape[0]}", encoded(Image.fromarray(array), kind, **more), array)
        for array, kind, more in (
            (tall, "JPEG", {}),
            (wide, "PNG", {}),
            (tiny, "PNG", {}),
            (wide, "JPEG", {"exif": exif(6), "quality": 80}),
        )
    ]
    return zoo() + odd


ANIMALS = animals()


@dataclass(frozen=True)
class World:
    """One preprocessing, the pictures in a folder, and the graph.

    Attributes:
        spec: the preprocessing.
        files: the pictures, in both splits.
        data: the folder as a data set.
        graph: the identity.
        expected: the network's inputs by the spec's own word, one of each picture: float32 [N, C * SIDE * SIDE].
    """

    spec: Preprocess
    files: list[Path]
    data: Dataset
    graph: Path
    expected: np.ndarray


def identity_graph(spec: Preprocess) -> onnx.ModelProto:
    size = spec.channels * spec.height * spec.width
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"], "flatten", axis=1),
            helper.make_node("Gemm", ["flat", "weight"], ["logits"], "fc", transB=1),
        ],
        "identity",
        [
            helper.make_tensor_value_info(
                "input", TensorProto.FLOAT, ["batch", spec.channels, spec.height, spec.width]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(np.eye(size, dtype=np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    labels = ("even", "odd", *(f"unused {number}" for number in range(size - 2)))
    metadata = ModelMetadata("identity", labels, spec, origin={"weights": "sha256:0"})
    helper.set_model_props(model, {METADATA_KEY: metadata.dumps()})
    return model


@pytest.fixture(scope="module", params=list(SPECS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    spec, root = SPECS[request.param], tmp_path_factory.mktemp("world")
    for part in ("train", "test"):
        for number, animal in enumerate(ANIMALS):
            folder = root / "data" / part / ("even", "odd")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03}.png").write_bytes(animal.data)
    onnx.save(identity_graph(spec), root / "identity.onnx")
    files = sorted((root / "data" / "test").rglob("*.png"))
    expected = spec.normalise(np.stack([spec.pixels(path) for path in files])).reshape(len(files), -1)
    return World(spec, files, open_dataset(root / "data"), root / "identity.onnx", expected)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """Every row that ONNX Runtime is given in this process, flat."""
    rows: list[np.ndarray] = []
    real = OnnxRuntimeSession._run

    def run(self: OnnxRuntimeSession, feeds: Any, batch: int) -> Any:
        rows.extend(np.array(feeds["input"]).reshape(batch, -1))
        return real(self, feeds, batch)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", run)
    return rows  # type: ignore[return-value]


def same(found: Any, expected: np.ndarray) -> bool:
    """Whether both hold the same rows, each as often, in any order."""
    return sorted(np.asarray(row, np.float32).tobytes() for row in found) == sorted(row.tobytes() for row in expected)


class Recording(torch.nn.Module):
    """A classifier that keeps what it is given: while it trains, and while it is tested."""

    def __init__(self, spec: Preprocess) -> None:
        super().__init__()
        self.head = torch.nn.Linear(spec.channels * spec.height * spec.width, 2)
        self.trained: list[np.ndarray] = []
        self.tested: list[np.ndarray] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.detach().flatten(1)
        (self.trained if self.training else self.tested).extend(rows.float().numpy().copy())
        logits: torch.Tensor = self.head(rows)
        return logits


def recorded(world: World, **choices: Any) -> Recording:
    recipe = Recipe(epochs=1, batch_size=16, precision="fp32", **{"shift": 0.0, "learning_rate": 1e-6, **choices})
    module = Recording(world.spec)
    train(module, training_data(world.data, world.spec, recipe), world.spec, recipe, device="cpu")
    return module


def test_training_sees_what_the_preprocessing_says(world: World) -> None:
    module = recorded(world)
    assert same(module.trained, world.expected)
    assert same(module.tested[: len(world.files)], world.expected)


def test_training_with_crops_is_tested_on_what_the_preprocessing_says(world: World) -> None:
    module = recorded(world, crop=True)
    assert same(module.tested[: len(world.files)], world.expected)
    frame = frame_of(world.spec, Recipe(crop=True))
    whole = [world.spec.normalise(frame.pixels(path)[None])[0] for path in world.files]
    cuts = {
        np.ascontiguousarray(image[:, top : top + SIDE, left : left + SIDE]).tobytes()
        for image in whole
        for top in range(frame.height - SIDE + 1)
        for left in range(frame.width - SIDE + 1)
    }
    assert {row.tobytes() for row in module.trained} <= cuts
    assert len({row.tobytes() for row in module.trained}) > len(world.files) // 2


def test_calibration_sees_it(world: World, reached: list[np.ndarray], tmp_path: Path) -> None:
    calibrate(
        world.graph, world.data, method="minmax", images=len(world.files), batch_size=7, equalise=False,
        output=tmp_path / "table.json",
    )  # fmt: skip
    assert {row.tobytes() for row in reached} == {row.tobytes() for row in world.expected}
    assert len(reached) >= len(world.files)


def test_evaluation_sees_it(world: World) -> None:
    rows: list[np.ndarray] = []
    entries, workers = open_entries([world.graph])
    try:
        (worker,) = workers.values()
        real = worker.logits

        def logits(pixels: np.ndarray, preprocess: Preprocess | None) -> np.ndarray:
            found = real(pixels, preprocess)
            rows.extend(found)  # what the graph in the other process gave back: its input
            return found

        worker.logits = logits  # type: ignore[method-assign]
        (name,) = entries
        plan = Plan((Contestant(str(world.graph), name),), dataset=world.data)
        evaluate(plan, world.data, entries, workers, reference=name, progress=QUIET)
    finally:
        for worker in workers.values():
            worker.close()
    assert same(rows, world.expected)


def test_prediction_sees_it(world: World, reached: list[np.ndarray]) -> None:
    forms = [path if number % 2 else path.read_bytes() for number, path in enumerate(world.files)]
    with toolkit.load(world.graph, device="cpu") as predictor:
        reached.clear()  # a session may run once to warm up
        predictor.classify(forms)
    assert np.array_equal(np.stack(reached), world.expected)


def test_the_server_sees_it(world: World, reached: list[np.ndarray]) -> None:
    settings = ModelSettings(devices=("cpu",), max_batch=4, threads=1, decoders=2)
    with serving(DataPlane(open_models([Source("identity", world.graph)], settings), settings)) as fronts:
        reached.clear()
        with httpx.Client(base_url=f"http://{fronts.http}") as client:
            for number, path in enumerate(world.files):
                if number % 2:
                    answer = client.post("/classify", content=path.read_bytes())
                else:
                    answer = client.post("/classify", files={"file": ("x.jpg", io.BytesIO(path.read_bytes()))})
                assert answer.status_code == 200, answer.text
    assert same(reached, world.expected)


@pytest.mark.parametrize("size", [224, 56, 14])
def test_the_centre_of_the_training_frame_is_what_the_preprocessing_gives(size: int) -> None:
    spec = Preprocess(size, size)
    frame = frame_of(spec, Recipe(crop=True))
    assert frame.height * spec.crop_fraction == size
    start = (frame.height - size) // 2
    for animal in ANIMALS:
        centre = frame.pixels(animal.data)[start : start + size, start : start + size]
        assert np.array_equal(centre, spec.pixels(animal.data)), animal.name
