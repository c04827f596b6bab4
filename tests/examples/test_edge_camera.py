"""The edge example as a device runs it: numpy and onnxruntime, and nothing else of the extras."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.tiny import tiny_graph, tiny_images
from toolkit.loading import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "edge_camera.py"

BARE = """
import importlib.abc, runpy, sys

KEPT = {"numpy", "onnxruntime", "toolkit", "engines", "export", "calibration", "_distutils_hack"}

class Blocked(importlib.abc.MetaPathFinder):
    # Of what pip installed, only KEPT is there.
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is None and top not in sys.stdlib_module_names and top not in KEPT and not top.startswith("__"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return None

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    present = {name.partition(".")[0] for name in sys.modules}
    print("present:", *sorted(present & {"PIL", "torch", "onnx", "click", "rich", "starlette", "sklearn"}),
          file=sys.stderr)
"""
"""Runs a script where only numpy, onnxruntime and this project can be imported."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


class Running:
    """The example at work."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read()
        value: dict[str, object] = json.loads(line)
        return value

    def end(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        assert (self.process.returncode, out) == (0, ""), err
        return err


@contextmanager
def running(model: Path, camera: Path, *options: str, bare: bool = True) -> Iterator[Running]:
    command = [sys.executable, *(["-c", BARE] if bare else []), str(EXAMPLE)]
    with subprocess.Popen(
        [*command, str(model), str(camera), "--every", "0.05", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield Running(process)
        finally:
            process.kill()


def expected(model: Path, images: np.ndarray) -> list[str]:
    with load(model, device="cpu") as predictor:
        return [answer.label for answer in predictor.classify_pixels(images, top=1)]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_raw_pictures_get_their_labels_with_numpy_and_onnxruntime_alone(model: Path, camera: Path) -> None:
    images = tiny_images(6)
    for number in range(4):
        np.save(camera / f"{number}.npy", images[number])
    (camera / "notes.txt").write_text("not a picture")
    with running(model, camera, "--delete") as example:
        found = {(line := example.line())["file"]: line["label"] for _ in range(4)}
        # Those that come while it runs, one of them under a name that was there before.
        np.save(camera / "new.npy", images[4])
        found |= {(line := example.line())["file"]: line["label"]}
        np.save(camera / "0.npy", images[5])
        again = example.line()
        until(lambda: [path.name for path in camera.iterdir()] == ["notes.txt"])
        err = example.end()
    labels = expected(model, images)
    assert found == {"0.npy": labels[0], "1.npy": labels[1], "2.npy": labels[2], "3.npy": labels[3],
                     "new.npy": labels[4]}  # fmt: skip
    assert (again["file"], again["label"]) == ("0.npy", labels[5])
    assert err.strip() == "present:"


def test_a_half_written_picture_is_read_when_it_is_whole_and_a_damaged_one_is_reported(
    model: Path, camera: Path
) -> None:
    (image, other) = tiny_images(2)
    np.save(camera.parent / "whole.npy", image)
    whole = (camera.parent / "whole.npy").read_bytes()
    (camera / "damaged.npy").write_bytes(whole[:200])
    long_ago = time.time() - 60
    os.utime(camera / "damaged.npy", (long_ago, long_ago))
    np.save(camera / "floats.npy", image.astype(np.float32))
    os.utime(camera / "floats.npy", (long_ago, long_ago))
    (camera / "slow.npy").write_bytes(whole[:300])
    with running(model, camera) as example:
        errors = {(line := example.line())["file"]: str(line["error"]) for _ in range(2)}
        assert errors.keys() == {"damaged.npy", "floats.npy"}
        assert "float32" in errors["floats.npy"]
        np.save(camera / "later.npy", other)
        assert example.line()["file"] == "later.npy"  # the half-written one holds nobody up
        with (camera / "slow.npy").open("ab") as file:
            file.write(whole[300:])
        line = example.line()
        assert (line["file"], line["label"]) == ("slow.npy", expected(model, image[None])[0])
        example.end(signal.SIGINT)


def test_encoded_pictures_are_read_where_pillow_is_and_its_absence_is_named(model: Path, camera: Path) -> None:
    image = tiny_images(1)[0]
    Image.fromarray(image).save(camera / "a.png")
    with running(model, camera, bare=False) as example:
        assert example.line() == {
            "file": "a.png", "label": expected(model, image[None])[0], "probability": pytest.approx(0.991, abs=1e-3),
        }  # fmt: skip
        example.end()
    with running(model, camera) as example:
        _, err = example.process.communicate(timeout=20)
        assert example.process.returncode == 1
        assert "error: Decoding images needs the package 'PIL" in err
        assert "pip install 'onnx-tensorrt-toolkit[data]'" in err


def test_what_does_not_run_is_told_in_a_line(tmp_path: Path, model: Path, camera: Path) -> None:
    for given, said in (((tmp_path / "none.onnx", camera), "none.onnx' does not exist"),
                        ((model, tmp_path / "none"), "No such file or directory")):  # fmt: skip
        with running(*given) as example:
            _, err = example.process.communicate(timeout=20)
            assert example.process.returncode == 1
            assert said in err
            assert "Traceback" not in err
