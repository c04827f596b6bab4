"""Logits of one quantised graph: GRAPH (.onnx in ONNX Runtime, .xml in OpenVINO) IMAGES.npy LOGITS.npy.

ONNX Runtime's ``WeightBiasQuantization`` is off, which would quantise what a graph placed for TensorRT leaves in
float. OpenVINO computes what isn't quantised in float32.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from images import batches


def onnxruntime_runner(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(graph),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],
    )
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def openvino_runner(graph: Path) -> Any:
    import openvino

    compiled = openvino.Core().compile_model(str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: compiled(batch)[0].copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("logits", type=Path)
    options = parser.parse_args()
    run = (openvino_runner if options.graph.suffix == ".xml" else onnxruntime_runner)(options.graph)
    np.save(options.logits, np.concatenate([run(batch) for batch in batches(options.images, 32)]))


if __name__ == "__main__":
    main()
