"""Ranges from data, Q/DQ from ranges: numpy and onnx, never torch."""

__distribution__ = "onnx-tensorrt-toolkit"
