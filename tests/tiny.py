"""Small real models for tests: an ONNX classifier built without torch, and its metadata."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.metadata import METADATA_KEY, ModelMetadata
from engines.preprocess import Preprocess

CLASSES = 5
SIZE = 16
PREPROCESS = Preprocess(SIZE, SIZE, resize="stretch")
METADATA = ModelMetadata(
    "tiny", tuple(f"class {i}" for i in range(CLASSES)), PREPROCESS, origin={"weights": "sha256:0"}
)


def tiny_graph(
    *, seed: int = 0, opset: int = 20, lrn: bool = False, metadata: ModelMetadata | None = METADATA
) -> onnx.ModelProto:
    """Conv-Relu-[LRN]-MaxPool-Conv-Relu-Flatten-Gemm-Relu-Gemm on [batch, 3, 16, 16], 5 classes, FP32."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        fan_in = int(np.prod(shape[1:]))
        values = rng.normal(0, (2 / fan_in) ** 0.5, shape) if len(shape) > 1 else rng.normal(0, 0.1, shape)
        return numpy_helper.from_array(values.astype(np.float32), name)

    initializers = [
        weight("conv1.weight", 8, 3, 3, 3), weight("conv1.bias", 8),
        weight("conv2.weight", 16, 8, 3, 3), weight("conv2.bias", 16),
        weight("fc1.weight", 32, 16 * 8 * 8), weight("fc1.bias", 32),
        weight("fc2.weight", CLASSES, 32), weight("fc2.bias", CLASSES),
    ]  # fmt: skip
    pooled = "lrn" if lrn else "relu1"
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["conv1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        *(
            [helper.make_node("LRN", ["relu1"], ["lrn"], "lrn", size=5, alpha=1e-4, beta=0.75, bias=2.0)]
            if lrn
            else []
        ),
        helper.make_node("MaxPool", [pooled], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool", "conv2.weight", "conv2.bias"], ["conv2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv2"], ["relu2"], "relu2"),
        helper.make_node("Flatten", ["relu2"], ["flat"], "flatten", axis=1),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["fc1"], "fc1", transB=1),
        helper.make_node("Relu", ["fc1"], ["relu3"], "relu3"),
        helper.make_node("Gemm", ["relu3", "fc2.weight", "fc2.bias"], ["logits"], "fc2", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: metadata.dumps()})
    onnx.checker.check_model(model, full_check=True)
    return model


def tiny_images(count: int, *, seed: int = 0) -> np.ndarray:
    """uint8 [count, 16, 16, 3] pictures with structure (smooth blobs), not white noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)
