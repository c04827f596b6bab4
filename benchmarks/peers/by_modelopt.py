"""NVIDIA Model Optimizer: GRAPH IMAGES.npy OUTPUT.onnx --method entropy|max.

INT8 at its documented options: images through a data reader in batches (given one array, it calibrates image by
image), on the CPU, and the shape of a calibration batch told, without which it leaves matrix products in float.
"""

import onnx
from images import parser_of, shape_of
from modelopt.onnx.quantization import quantize
from reader import Reader


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--method", choices=("entropy", "max"), default="entropy")
    options = parser.parse_args()
    name = onnx.load(str(options.graph), load_external_data=False).graph.input[0].name
    shape = (options.batch_size, *shape_of(options.images)[1:])
    quantize(
        str(options.graph),
        quantize_mode="int8",
        calibration_method=options.method,
        calibration_data_reader=Reader(options.images, name, options.batch_size),
        calibration_shapes=f"{name}:{'x'.join(map(str, shape))}",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(options.output),
    )


if __name__ == "__main__":
    main()
