"""A quantised network, built twice, with pictures that it was not calibrated on, and what may go wrong with it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph import save_graph
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.data import Dataset, PreprocessHint, Split
from toolkit.steps.build import build_engine

IMAGES = 200


def pictures(labels: np.ndarray | None = None) -> Dataset:
    """60 pictures to calibrate on and 200 others; the labels are what the network below answers to most."""
    train, test = tiny_images(60, seed=3), tiny_images(IMAGES, seed=5)
    truth = np.arange(IMAGES) % len(METADATA.labels) if labels is None else labels
    splits = Split(train, np.arange(60) % len(METADATA.labels)), Split(test, truth.astype(np.int64))
    return Dataset("blobs", METADATA.labels, *splits, PreprocessHint("stretch", 3, 16, 16))


def archive(dataset: Dataset, path: Path) -> Path:
    """The same as an .npz, for commands."""
    names = np.array(dataset.labels)
    np.savez(
        path,
        x_train=dataset.train.images, y_train=names[dataset.train.labels],
        x_test=dataset.test.images, y_test=names[dataset.test.labels], label_names=names,
    )  # fmt: skip
    return path


def built(folder: Path, name: str = "old", *, seed: int = 0) -> Path:
    """The tiny network in INT8 for ONNX Runtime, calibrated and built anew."""
    master = folder / name / f"{name}.onnx"
    master.parent.mkdir()
    save_graph(tiny_graph(seed=seed), master)
    return build_engine(master, precision="int8", backend="onnxruntime", data=pictures(), cache=False).engine


def scales(path: Path) -> list[str]:
    """The scale of every quantised layer's weights and of every quantised activation."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return list(dict.fromkeys(node.input[1] for node in nodes if "bias" not in node.input[1]))


def halved(path: Path, scale: str) -> onnx.ModelProto:
    """The graph with one scale half as large."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == scale)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value / 2).astype(value.dtype), scale))
    return model


def batch(images: np.ndarray) -> np.ndarray:
    return PREPROCESS.normalise(images)
