"""NVIDIA Model Optimizer: GRAPH IMAGES.npy OUTPUT.onnx --method entropy|max.

INT8 at its documented options: images through a data reader in batches (given one array, it calibrates image by
image), on the CPU, and the shape of a calibration batch told, without which it leaves matrix products in float.
"""

import argparse
from pathlib import Path
from typing import Any

import onnx
from images import batches, shape_of
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, path: Path, name: str, size: int) -> None:
        self._path, self._name, self._size = path, name, size
        self.rewind()

    def rewind(self) -> None:
        self._batches = ({self._name: batch} for batch in batches(self._path, self._size))

    def get_first(self) -> Any:
        return {self._name: next(batches(self._path, self._size))}

    def get_next(self) -> Any:
        return next(self._batches, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--method", choices=("entropy", "max"), default="entropy")
    parser.add_argument("--batch-size", type=int, default=16)
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
