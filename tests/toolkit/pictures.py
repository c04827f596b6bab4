"""Picture folders for tests."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(shade: int, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 40, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise + np.uint8(shade)).save(buffer, kind)
    return buffer.getvalue()


def folder(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 5, kind: str = "PNG") -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            suffix = kind.lower()
            (root / name / f"{index}.{suffix}").write_bytes(picture(40 * number + index, kind=kind))
    return root
