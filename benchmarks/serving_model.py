"""The model that is served, the pictures that it is asked about, and its own answers to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_wire import Names

SIZE = 224
CLASSES = 10
PICTURES = 32
"""Different ones; each is asked about many times."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Sizes at which the session's own answers are taken: what the same picture's differ by is the noise."""


@dataclass(frozen=True)
class Truth:
    """What a right answer is.

    Attributes:
        names: of the model, its input and its output.
        expected: float32 [pictures, classes], of the session's own.
        noise: the most that a picture's answers differ by between batch sizes.
        apart: the least that two pictures' answers differ by, which tells them from each other.
        tolerance: between the two: what an answer may be from the expected one.
    """

    names: Names
    expected: Any
    noise: float
    apart: float
    tolerance: float


def pictures(count: int = PICTURES, seed: int = 0) -> Any:
    """uint8 [count, 224, 224, 3]: coarse blobs, each of its own colours, so that the network tells them apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 7, 7, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(SIZE // 7, axis=1).repeat(SIZE // 7, axis=2))


def make_model(folder: Path) -> Path:
    """An INT8 AlexNet for ONNX Runtime that takes uint8 pictures; random weights: speed doesn't depend on them."""
    import torch

    from calibration.collect import collect
    from calibration.qdq import quantise
    from engines.metadata import ModelMetadata
    from engines.preprocess import Preprocess
    from export.graph import load_graph, save_graph
    from export.models.registry import build
    from export.onnx_export import to_onnx

    torch.manual_seed(0)
    metadata = ModelMetadata("alexnet", tuple(map(str, range(CLASSES))), Preprocess(SIZE, SIZE, resize="stretch"))
    master, typed = folder / "master.onnx", folder / "model.onnx"
    save_graph(to_onnx(build("alexnet", CLASSES).eval(), metadata, uint8_input=True), master)
    table = collect(master, iter([pictures(seed=1)])).table("entropy")
    save_graph(quantise(load_graph(master), table, "onnxruntime"), typed)
    master.unlink()
    return typed


def truth_of(graph: Path, images: Any) -> Truth:
    """The session's own answers, and how far apart right and wrong ones are.

    Raises:
        SystemExit: pictures' answers differ by less than ten times the noise, so that none could be checked.
    """
    from engines.sessions import open_session

    with open_session(graph, device="cpu") as session:
        taken, given = session.inputs[0], session.outputs[0]
        names = Names("model", taken.name, given.name)
        found = np.stack(
            [
                np.concatenate(
                    [
                        session.run({taken.name: images[at : at + size]})[given.name]
                        for at in range(0, len(images), size)
                    ]
                )
                for size in BATCHES
            ]
        )
    noise = float(np.abs(found - found[0]).max())
    expected = found[0]
    distances = np.abs(expected[:, None] - expected[None]).max(axis=2)
    apart = float(distances[~np.eye(len(expected), dtype=bool)].min())
    if not apart > 10 * noise:
        raise SystemExit(
            f"answers to different pictures are {apart} apart, the same one's {noise}: give another graph"
        )
    # Not every batch size was tried, so more than the noise; and less than what tells two pictures apart.
    return Truth(names, expected, noise, apart, max(3 * noise, apart / 1000))
