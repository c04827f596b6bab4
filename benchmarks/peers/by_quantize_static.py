"""ONNX Runtime's ``quantize_static``: GRAPH IMAGES.npy OUTPUT.onnx --method minmax|entropy|percentile.

Q/DQ, int8 activations and int8 weights per channel, after its own pre-processing. Min-max takes its images one batch
at a time; the others keep what they saw either way.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnx
from images import batches
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, path: Path, name: str, size: int) -> None:
        self._batches = ({name: batch} for batch in batches(path, size))

    def get_next(self) -> Any:
        return next(self._batches, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--method", choices=METHODS, default="minmax")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(options.graph), str(prepared), skip_symbolic_shape=True)
        name = onnx.load(str(prepared)).graph.input[0].name
        quantization.quantize_static(
            str(prepared),
            str(options.output),
            Reader(options.images, name, options.batch_size),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=METHODS[options.method],
        )


if __name__ == "__main__":
    main()
