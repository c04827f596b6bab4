"""What the peers are asked with, and their calibration images: one ``.npy`` of float32 [N, C, H, W], in batches.

It is read, not mapped into memory: mapped pages would count as the memory of the tool that reads them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """The arguments that every peer takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("graph", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    return parser


def batches(path: Path, size: int) -> Iterator[NDArray[np.float32]]:
    """The images in their order, ``size`` at a time; what is left over comes last."""
    with path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        values = int(np.prod(shape[1:]))
        for start in range(0, shape[0], size):
            count = min(size, shape[0] - start)
            yield np.fromfile(file, dtype, count * values).reshape(count, *shape[1:])


def shape_of(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        npy.read_magic(file)
        return tuple(npy.read_array_header_1_0(file)[0])
