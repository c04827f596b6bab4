"""A folder that a camera writes into, a label for every picture: on the device itself, without a server.

    python examples/edge_camera.py model.int8.onnx /var/spool/camera --delete

It needs numpy, onnxruntime and the toolkit. Encoded pictures (JPEG, PNG, ...) need Pillow too; a camera that saves
raw arrays (``*.npy``, uint8 [height, width, channels] of the model's size) is served without it.

A line of JSON a picture goes to stdout. A picture is read once it has stopped changing; one that can't be read then,
of a camera that stalls, is read again later, and reported when it doesn't change. Memory is bounded by one batch and
the names in the folder. Ctrl-C and SIGTERM end it after the batch at hand.
"""

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from itertools import takewhile
from pathlib import Path

import numpy as np

import toolkit

PICTURES = {".npy", ".jpg", ".jpeg", ".png", ".bmp", ".webp"}
PATIENCE = 5.0  # seconds since a damaged file last changed, after which it is reported


def read(predictor: toolkit.Predictor, path: Path) -> np.ndarray:
    """The picture as uint8 [height, width, channels] of the model's size; one too large is refused by its header."""
    if path.suffix.lower() != ".npy":
        return predictor.head.pixels(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise toolkit.InputError(f"can't read '{path}' as an array: {error}", "write it again") from error
    predictor.head.check(array[None])
    return np.array(array)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a picture has changed, by its name."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in PICTURES and not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # taken away since
                    found[entry.name] = (entry.stat().st_mtime_ns, entry.stat().st_size)
    return found


def watch(predictor: toolkit.Predictor, folder: Path, stop: threading.Event, every: float, delete: bool) -> None:
    before, done = dict[str, tuple[int, int]](), dict[str, tuple[int, int]]()
    while not stop.is_set():
        now = stamps(folder)
        done = {name: stamp for name, stamp in done.items() if now.get(name) == stamp}
        settled = sorted((stamp, name) for name, stamp in now.items() if before.get(name) == stamp != done.get(name))
        for at in takewhile(lambda _: not stop.is_set(), range(0, len(settled), predictor.batch_size)):
            batch: dict[str, np.ndarray] = {}
            for stamp, name in settled[at : at + predictor.batch_size]:
                try:
                    batch[name] = read(predictor, folder / name)
                except toolkit.InputError as error:
                    if time.time() - stamp[0] / 1e9 < PATIENCE:
                        continue
                    print(json.dumps({"file": name, "error": error.cause}), flush=True)
                done[name] = stamp
            if batch:
                answers = predictor.classify_pixels(np.stack([*batch.values()]), top=1)
                for name, answer in zip(batch, answers, strict=True):
                    line = {"file": name, "label": answer.label, "probability": round(answer.probability, 4)}
                    print(json.dumps(line), flush=True)
                    if delete:
                        (folder / name).unlink(missing_ok=True)
        before = now
        stop.wait(every)


def main() -> None:
    parser = argparse.ArgumentParser(description="Label the pictures that a camera writes into a folder.")
    parser.add_argument("model", help="a graph or an engine")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two looks")
    parser.add_argument("--delete", action="store_true", help="remove a picture once it has its label")
    given, stop = parser.parse_args(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        with toolkit.load(given.model) as predictor:
            watch(predictor, given.folder, stop, given.every, given.delete)
    except (toolkit.ToolkitError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
