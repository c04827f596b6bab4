"""Quantisation-aware fine-tuning on a network that INT8 costs more than two points: how much of them it gives back.

    python benchmarks/qat.py

Every picture comes from three sensors: a blurred overview, and the edges along each axis. The network is
depthwise-separable with batch normalisation, and trained in the ordinary way. Then the first sensor reads in
units 64 times as large, and the weights that read them are as much smaller: the same function, as
``benchmarks/accuracy_budget.py`` has it. One scale serves the whole input and an input can't be equalised, so that in
INT8 the edges keep three levels. Each seed gives three networks, measured on the test split (the digits' own, each
image at five positions):

- FP32, and its INT8 graph from ``toolkit calibrate``'s defaults: what INT8 loses;
- fine-tuned with the rounding simulated (``toolkit train --qat``), in INT8;
- the control: fine-tuned for as many epochs with the same recipe in FP32, calibrated, in INT8.

INT8 is measured in ONNX Runtime with Q/DQ placed for TensorRT, and with its own placement. A few minutes on two
cores. The record goes to ``benchmarks/results/qat.json``.
"""

import argparse
import copy
import datetime as dt
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

if TYPE_CHECKING:
    from torch import nn

    from calibration.table import CalibrationTable
    from engines.metadata import ModelMetadata
    from export.recipe import Recipe
    from toolkit.data import Dataset

SIDE, WIDTH, UNITS = 32, 16, 64.0


def sensors(images: Any) -> Any:
    """The three sensors' pictures of digits uint8 [N, side, side]: uint8 [N, side, side, 3]."""
    grey = images.astype(np.float32)
    count, side, _ = grey.shape
    coarse = grey.reshape(count, side // 8, 8, side // 8, 8).mean((2, 4))
    overview = np.repeat(np.repeat(coarse, 8, 1), 8, 2)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:] = np.abs(np.diff(grey, axis=2))
    down[:, 1:] = np.abs(np.diff(grey, axis=1))
    return np.stack([overview, across, down], 3).round().clip(0, 255).astype(np.uint8)


def network(seed: int) -> "nn.Module":
    """A small depthwise-separable classifier of three-channel pictures."""
    import torch
    from torch import nn

    def block(entering: int, leaving: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(leaving), nn.ReLU()]

    torch.manual_seed(seed)
    layers = block(3, WIDTH, 3, 2)
    width = WIDTH
    for stride in (1, 2, 2):
        layers += [*block(width, width, 3, stride, width), *block(width, 2 * width, 1, 1)]
        width *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def other_units(module: Any, metadata: "ModelMetadata") -> "ModelMetadata":
    """Let the first sensor read in other units; the module is changed in place, its function isn't."""
    import torch

    with torch.no_grad():
        module[0].weight[:, 0] /= UNITS
    std = metadata.preprocess.std
    return replace(metadata, pictures=replace(metadata.preprocess, std=(std[0] / UNITS, *std[1:])))


def fit(module: "nn.Module", dataset: "Dataset", metadata: "ModelMetadata", recipe: "Recipe") -> float:
    """Train in place; the seconds it took."""
    from export.training import TrainingData, train
    from toolkit.data import pixel_batches

    size, preprocess = len(dataset.train), metadata.preprocess
    data = TrainingData(
        train=lambda _, rng: pixel_batches(
            dataset.train, preprocess, recipe.batch_size, indices=rng.permutation(size).astype(np.int64)
        ),
        test=lambda: pixel_batches(
            dataset.train, preprocess, 128, indices=np.arange(256)
        ),  # the test split is unseen
        train_size=size,
        test_size=256,
    )
    return train(module, data, preprocess, recipe, device="cpu").seconds


class Measurer:
    """Top-1 on the test split, in percent."""

    def __init__(self, dataset: "Dataset", metadata: "ModelMetadata", folder: Path) -> None:
        from benchmarks.accuracy import write_images

        self._labels, self._folder = dataset.test.labels, folder
        self._images = folder / "test.npy"
        write_images(dataset.test, metadata.preprocess, self._images)

    def __call__(self, graph: Any) -> float:
        from benchmarks.accuracy import logits_of
        from export.graph import save_graph

        path = self._folder / "measured.onnx"
        save_graph(graph, path)
        return round(100 * float((logits_of(path, self._images).argmax(1) == self._labels).mean()), 2)

    def int8(self, graph: Any, table: "CalibrationTable") -> dict[str, float]:
        from calibration.qdq import PLACEMENTS, quantise

        return {f"int8 for {target}": self(quantise(graph, table, target)) for target in PLACEMENTS}


def one(
    seed: int, dataset: "Dataset", metadata: "ModelMetadata", folder: Path, recipes: "tuple[Recipe, Recipe]"
) -> dict[str, Any]:
    """All that is measured of a seed."""
    from calibration.table import CalibrationTable
    from export.graph import save_graph
    from export.onnx_export import to_onnx
    from toolkit import qat
    from toolkit.steps.calibrate import calibrate

    source = network(seed)
    result: dict[str, Any] = {"seed": seed, "train_seconds": fit(source, dataset, metadata, recipes[0])}
    metadata = other_units(source, metadata)
    measure = Measurer(dataset, metadata, folder)

    def calibrated(module: "nn.Module") -> dict[str, Any]:
        graph, path = to_onnx(module, metadata), folder / "calibrated.onnx"
        save_graph(graph, path)
        start = time.perf_counter()
        table = calibrate(path, dataset, force=True)
        seconds = time.perf_counter() - start
        return {"fp32": measure(graph), **measure.int8(graph, table), "calibrate_seconds": seconds}

    result["calibrated"] = calibrated(source)
    print(f"  calibrated: {result['calibrated']}", flush=True)
    control = copy.deepcopy(source)
    seconds = fit(control, dataset, metadata, recipes[1])
    result["control"] = {**calibrated(control), "train_seconds": seconds}
    print(f"  control: {result['control']}", flush=True)
    start = time.perf_counter()
    quantised = qat.prepare(source, metadata, dataset)
    prepare_seconds = time.perf_counter() - start
    seconds = fit(source, dataset, metadata, recipes[1])
    table = CalibrationTable.from_json(quantised.finish())
    graph = to_onnx(source, metadata)
    result["qat"] = {
        "fp32": measure(graph),
        **measure.int8(graph, table),
        "prepare_seconds": prepare_seconds,
        "train_seconds": seconds,
        "learned_over_calibrated": table.facts["learned_over_calibrated"],
    }
    print(f"  qat: {result['qat']}", flush=True)
    return result | {"recovered": recovered(result)}


def recovered(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each placement: points that INT8 loses, and the share of them that QAT and the control give back."""
    found = {}
    before = result["calibrated"]
    for name in (key for key in before if key.startswith("int8")):
        lost = before["fp32"] - before[name]
        found[name] = {"lost_points": round(lost, 2)} | {
            way: round((result[way][name] - before[name]) / lost, 3) for way in ("qat", "control") if lost > 0
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="networks [3]")
    parser.add_argument("--epochs", type=int, default=8, help="of the training in FP32 [8]")
    parser.add_argument("--fine-epochs", type=int, default=8, help="of the fine-tunings [8]")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of the fine-tunings [2e-4]")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "qat.json")
    options = parser.parse_args()
    from benchmarks.hard_networks import LABELS, digits, save_data
    from engines.files import write_atomically
    from engines.metadata import ModelMetadata
    from engines.preprocess import Preprocess
    from export.recipe import Recipe
    from toolkit.machine import describe

    preprocess = Preprocess(SIDE, SIDE, channels=3, resize="stretch", mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5))
    metadata = ModelMetadata("depthwise-separable", LABELS, preprocess)
    common: dict[str, Any] = {"batch_size": 32, "dropout": None, "label_smoothing": 0.0, "precision": "fp32"}
    recipes = (
        Recipe(epochs=options.epochs, learning_rate=1e-2, **common),
        Recipe(epochs=options.fine_epochs, learning_rate=options.learning_rate, **common),
    )
    rows = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qat-") as name:
        x_train, y_train, x_test, y_test = digits(SIDE)
        dataset = save_data(Path(name), sensors(x_train), y_train, sensors(x_test), y_test)
        for seed in range(options.seeds):
            print(f"seed {seed}", flush=True)
            rows.append(one(seed, dataset, metadata, Path(name), recipes))
            print(f"  recovered: {rows[-1]['recovered']}", flush=True)
    record = {
        "schema": "onnx-tensorrt-toolkit/qat-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "took_seconds": round(time.monotonic() - start, 1),
        "machine": describe().to_json(),
        "test_images": 1795,
        "units": UNITS,
        "recipes": {"training": asdict(recipes[0]), "fine-tuning": asdict(recipes[1])},
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
