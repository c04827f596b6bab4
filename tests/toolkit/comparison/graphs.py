"""Tiny classifiers that differ from one another in one way each, and data that they are judged on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.metadata import METADATA_KEY
from engines.sessions import open_session
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.worker import Worker
from toolkit.comparison.measuring.plan import Entry
from toolkit.data import Dataset, PreprocessHint, Split

ORDER = np.array([3, 0, 4, 1, 2])
"""For each class of the permuted graph its number in the others."""


def write_graphs(folder: Path) -> None:
    """a.onnx; noisy.onnx, its weights disturbed; permuted.onnx, its classes in another order; softmax.onnx, its
    probabilities; nan.onnx, NaN where its first logit is small.
    """
    onnx.save(_balanced(), folder / "a.onnx")

    noisy, rng = _balanced(), np.random.default_rng(0)
    for tensor in noisy.graph.initializer:
        value = numpy_helper.to_array(tensor)
        disturbed = value + 0.1 * value.std() * rng.standard_normal(value.shape)
        tensor.CopyFrom(numpy_helper.from_array(disturbed.astype(np.float32), tensor.name))
    onnx.save(noisy, folder / "noisy.onnx")

    permuted = _balanced()
    labels = tuple(METADATA.labels[i] for i in ORDER)
    helper.set_model_props(permuted, {METADATA_KEY: replace(METADATA, labels=labels).dumps()})
    for tensor in permuted.graph.initializer:
        if tensor.name.startswith("fc2"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[ORDER], tensor.name))
    onnx.save(permuted, folder / "permuted.onnx")

    onnx.save(_with_nodes([helper.make_node("Softmax", ["logits"], ["out"])]), folder / "softmax.onnx")

    logits = answers(folder / "a.onnx", tiny_images(64, seed=5))
    split = {"first": np.array([0]), "shift": np.float32(-np.quantile(logits[:, 0], 0.1)), "zero": np.float32(0)}
    nodes = [
        helper.make_node("Gather", ["logits", "first"], ["g"], axis=1),
        helper.make_node("Add", ["g", "shift"], ["s"]),
        helper.make_node("Sqrt", ["s"], ["r"]),
        helper.make_node("Mul", ["r", "zero"], ["z"]),
        helper.make_node("Add", ["logits", "z"], ["out"]),
    ]
    onnx.save(_with_nodes(nodes, split), folder / "nan.onnx")


def with_one_more_class(path: Path, labels: Sequence[str], target: Path) -> None:
    """The graph with a sixth output that is never the answer."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("fc2"):
            value = numpy_helper.to_array(tensor)
            extra = np.full((1, *value.shape[1:]), -100 if value.ndim == 1 else 0, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([value, extra]), tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(METADATA.labels) + 1
    helper.set_model_props(model, {METADATA_KEY: replace(METADATA, labels=tuple(labels)).dumps()})
    onnx.save(model, target)


def _balanced(mean: Sequence[float] = (-0.4, 3.7, -0.6, 0.3, 0.0)) -> onnx.ModelProto:
    """The tiny graph less its mean logits, so that no class is the answer to nearly everything."""
    model = tiny_graph()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc2.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - np.float32(mean), bias.name))
    return model


def _with_nodes(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    model = _balanced()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (constants or {}).items())
    model.graph.output[0].name = "out"
    onnx.checker.check_model(model)
    return model


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """The graph's output, float32 [N, classes], in its own class order, without the toolkit's evaluation."""
    with open_session(path, device="cpu") as session:
        (output,) = session.run({"input": PREPROCESS.normalise(images)}).values()
        return output


def labelled(path: Path, count: int) -> Dataset:
    """Images of which the graph classifies about four in five as the label says; the classes have names."""
    images = tiny_images(count, seed=5)
    found = answers(path, images).argmax(axis=1)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(count) > 0.8, rng.integers(0, len(METADATA.labels), count), found).astype(np.int64)
    split = Split(images, labels)
    return Dataset("blobs", METADATA.labels, split, split, PreprocessHint("stretch", 3, 16, 16))


class CountingWorker(Worker):
    """A measuring process's inside, without the process; counts the images that it was asked about."""

    images = 0

    def logits(self, pixels, preprocess):
        self.images += len(pixels)
        return super().logits(pixels, preprocess)


def open_entries(paths: Sequence[Path]) -> tuple[dict[str, Entry], dict[str, CountingWorker]]:
    """Entries of a comparison, opened; close the workers."""
    entries, workers = {}, {}
    for path in paths:
        contestant = Contestant(str(path), path.name, threads=1)
        entry, worker = Entry.of(contestant), CountingWorker()
        entry.opened = worker.open(contestant)
        entry.metadata = entry.opened.metadata
        entries[path.name], workers[path.name] = entry, worker
    return entries, workers
