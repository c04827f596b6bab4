"""Build and run engines: numpy plus one backend library a file, no torch and no onnx at import."""

__distribution__ = "onnx-tensorrt-toolkit"
