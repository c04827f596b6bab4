"""PyTorch to verified ONNX: the home of torch."""

__distribution__ = "onnx-tensorrt-toolkit"
