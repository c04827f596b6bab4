import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image

from tests.tiny import tiny_graph, tiny_images

COUNT = 60
DAMAGED = (7, 41)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.onnx`` and ``pictures/`` with 60 of them in two folders, two of them damaged."""
    folder = tmp_path_factory.mktemp("prediction")
    onnx.save(tiny_graph(), folder / "model.onnx")
    for number, image in enumerate(tiny_images(COUNT)):
        path = folder / "pictures" / ("late" if number >= 40 else "early") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in DAMAGED:
            path.write_bytes(b"\x89PNG damaged")
        else:
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of :func:`original` that is the current folder."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
