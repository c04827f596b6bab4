"""``onnx``, or one clear error that says how to get it: every module that edits graphs imports it from here."""

from engines.optional import require

require("onnx", "Reading and writing ONNX graphs", "onnxruntime")

import onnx  # noqa: E402 - only after the check above, which explains its absence

__all__ = ["onnx"]
