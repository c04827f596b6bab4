"""A network of which one layer can't be quantised well, and pictures that it is sure of."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from calibration.collect import collect
from calibration.table import CalibrationTable
from engines.sessions import open_session
from export.graph import save_graph
from export.passes.module_names import MODULE_KEY
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.data.dataset import Dataset, PreprocessHint, Split

OUTLIER = 4096.0
"""How far one channel of what fc2 reads is above the others: a range for it leaves them none of 127 steps."""


@dataclass(frozen=True)
class Hard:
    """The graph's file, labelled pictures, and a min-max table beside the graph."""

    graph: Path
    data: Dataset
    table: CalibrationTable

    @property
    def beside(self) -> Path:
        return self.graph.with_name("model.calibration.json")

    def copy(self, folder: Path) -> "Hard":
        """The same in another folder."""
        for path in (self.graph, self.beside):
            shutil.copy(path, folder)
        return replace(self, graph=folder / self.graph.name)

    def archive(self) -> Path:
        """The pictures as an archive beside the graph; their labels are the model's."""
        path = self.graph.with_name("pictures.npz")
        train, test = self.data.train, self.data.test
        names = np.array(METADATA.labels)
        np.savez(
            path,
            x_train=np.asarray(train.images), y_train=names[train.labels],
            x_test=np.asarray(test.images), y_test=names[test.labels], label_names=names,
        )  # fmt: skip
        return path


def hard_graph() -> onnx.ModelProto:
    """The tiny graph with one channel between fc1 and fc2 scaled up and back: the same answers in FP32."""
    model = tiny_graph()
    values = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    values["fc1.bias"][3] = 1.0  # so that the channel is alive
    hidden = numpy_hidden(values)
    values["fc2.bias"] = -(hidden @ values["fc2.weight"].T).mean(axis=0)  # so that no class wins everywhere
    values["fc1.weight"][3] *= OUTLIER
    values["fc1.bias"][3] *= OUTLIER
    values["fc2.weight"][:, 3] /= OUTLIER
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    for node in model.graph.node:
        if node.op_type in {"Conv", "Gemm"}:
            module = ("features." if node.op_type == "Conv" else "classifier.") + node.name
            node.metadata_props.append(onnx.StringStringEntryProto(key=MODULE_KEY, value=module))
    return model


def numpy_hidden(values: dict[str, np.ndarray]) -> np.ndarray:
    """What fc2 reads for some pictures, float32 [N, 32]."""
    model = tiny_graph()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    del model.graph.output[:]
    model.graph.output.add(name="relu3")
    batch = PREPROCESS.batch(tiny_images(200, seed=6))
    return np.asarray(ReferenceEvaluator(model).run(None, {"input": batch})[0])


def hard_network(folder: Path) -> Hard:
    """Write the graph and its table; label pictures with what the graph is sure of."""
    graph = folder / "model.onnx"
    model = hard_graph()
    save_graph(model, graph)
    images = tiny_images(900, seed=5)
    with open_session(graph) as session:
        logits = session.run({"input": PREPROCESS.batch(images)})["logits"]
    top = np.sort(logits, axis=1)
    sure = np.sort(np.argsort(top[:, -2] - top[:, -1], kind="stable")[:300])
    images, labels = images[sure], logits[sure].argmax(axis=1).astype(np.int64)
    data = Dataset(
        "sure",
        METADATA.labels,
        Split(images[:180], labels[:180]),
        Split(images[180:], labels[180:]),
        PreprocessHint("stretch", 3, 16, 16),
    )
    table = collect(model, [PREPROCESS.normalise(images[:60])]).table("minmax", facts={"data": "sure"})
    table.write(folder / "model.calibration.json")
    return Hard(graph, data, table)
