"""Calibration images as ONNX Runtime's readers give them, which Model Optimizer takes too."""

from pathlib import Path
from typing import Any

from images import batches
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of ``size`` images under the input's ``name``."""

    def __init__(self, path: Path, name: str, size: int) -> None:
        self._path, self._name, self._size = path, name, size
        self.rewind()

    def rewind(self) -> None:
        """Begin anew."""
        self._batches = ({self._name: batch} for batch in batches(self._path, self._size))

    def get_first(self) -> Any:
        """The first batch, whatever has been read."""
        return {self._name: next(batches(self._path, self._size))}

    def get_next(self) -> Any:
        """The next batch; None at the end."""
        return next(self._batches, None)
