"""ONNX Runtime's ``quantize_static``: GRAPH IMAGES.npy OUTPUT.onnx --method minmax|entropy|percentile.

Q/DQ, int8 activations and int8 weights per channel, after its own pre-processing. Min-max takes its images one batch
at a time; the others keep what they saw either way.
"""

import tempfile
from pathlib import Path

import onnx
from images import parser_of
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from reader import Reader

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--method", choices=METHODS, default="minmax")
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
