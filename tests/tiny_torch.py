"""The network of :mod:`tests.tiny` in PyTorch, with the graph's own weights."""

import onnx
import torch
from onnx import numpy_helper
from torch import nn


def tiny_module(graph: onnx.ModelProto) -> nn.Module:
    """The module that ``tiny_graph()`` without LRN is the graph of."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 8 * 8, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    weights = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer}
    names = {"0": "conv1", "3": "conv2", "6": "fc1", "8": "fc2"}
    module.load_state_dict(
        {f"{i}.{kind}": weights[f"{name}.{kind}"] for i, name in names.items() for kind in ("weight", "bias")}
    )
    return module
