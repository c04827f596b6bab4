"""Every family of classifiers at its native input: what exporting, quantising and building it comes to.

    python benchmarks/families.py --work FOLDER             # every family
    python benchmarks/families.py --work FOLDER --only resnet18 --only googlenet
    python benchmarks/families.py --work FOLDER --train     # trains three of them on the digits, and judges INT8

The networks have random weights, and batch normalisations whose means and variances are those of real pictures:
speed, size and parity don't depend on more. Recorded are the seconds of the export, the distance of the graph from
float64 PyTorch in noise floors, the speed of INT8 against FP32 on this CPU in ONNX Runtime (each in processes of its
own, taking turns), and sizes and build seconds of TensorRT for RTX's FP16 and INT8 engines.

With ``--train`` networks are trained with their architectures' default recipes on digits of ``--input-size`` pixels,
and their FP32 and INT8 graphs answer the test split through ``toolkit compare``.

The record ``benchmarks/results/families.json`` is written after every family; the same command goes on where it
stopped. A record of other settings, versions or another machine is begun anew.
"""

import argparse
import datetime as dt
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

if TYPE_CHECKING:
    from torch import nn

    from engines.preprocess import Preprocess

SCHEMA, VERSION = "onnx-tensorrt-toolkit/families-benchmark", 1

FAMILIES = (
    "lenet", "alexnet", "vgg11", "vgg13", "vgg16", "vgg16-bn", "vgg19", "googlenet",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
)  # fmt: skip

TRAINED = ("alexnet", "resnet18", "googlenet")

LEAST_ACCURACY, LARGEST_DROP = 0.97, 0.005
"""What a trained network must reach, and what INT8 may lose of it."""

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for checkpoints, graphs and engines")
    parser.add_argument("--only", action="append", metavar="NAME", help="this family alone; may be given again")
    parser.add_argument("--train", action="store_true", help="train and judge instead of exporting random weights")
    parser.add_argument("--input-size", type=int, default=64, help="pixels of the digits with --train [64]")
    parser.add_argument("--images", type=int, default=64, help="calibration images [64]")
    parser.add_argument("--batch", default="1,8", help="batch sizes of the speeds [1,8]")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed running a graph and batch size [3]")
    parser.add_argument("--rounds", type=int, default=12, help="turns that this is cut into [12]")
    parser.add_argument("--keep", action="store_true", help="leave what was made in the work folder")
    parser.add_argument("--fresh", action="store_true", help="measure again what the record has")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "families.json")
    options = parser.parse_args()
    known = TRAINED if options.train else FAMILIES
    names = options.only or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{unknown[0]} is none of {', '.join(known)}")
    record = begun(options)
    part, work = ("trained", trained) if options.train else ("families", measured)
    for name in names:
        if name in record[part] and not options.fresh:
            print(f"{name}: in the record already")
            continue
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        record[part][name] = work(name, folder, options)
        save(record, options.output)
        print(name, json.dumps(record[part][name]), flush=True)
        if not options.keep:
            shutil.rmtree(folder)
    if missed := [name for name, facts in record["trained"].items() if name in names and not facts["goal_met"]]:
        raise SystemExit(f"missed the goal: {', '.join(missed)}")


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """The record to go on with: the one on disk where it is of this machine, these versions and settings."""
    from toolkit.machine import describe

    record: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "created": "",
        "command": "python benchmarks/families.py --work FOLDER, and once more with --train",
        "machine": describe().to_json(),
        "settings": {
            "weights": "random; batch normalisations have the statistics of pictures",
            "classes": CLASSES,
            "calibration_images": options.images,
            "batch_sizes": [int(size) for size in options.batch.split(",")],
        },
        "families": {},
        "trained": {},
    }
    if options.output.is_file():
        earlier = json.loads(options.output.read_text())
        if all(earlier.get(key) == record[key] for key in ("schema", "version", "machine", "settings")):
            return dict(earlier)
        print("the record on disk is of other settings, versions or another machine: begun anew", flush=True)
    return record


def save(record: dict[str, Any], output: Path) -> None:
    from engines.files import write_atomically

    record["created"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, json.dumps(record, indent=2, allow_nan=False) + "\n")


# ---- random weights


def measured(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One family's figures."""
    import toolkit
    from engines.metadata import ModelMetadata
    from export.checkpoint import save_checkpoint
    from export.models.registry import preprocess_for
    from toolkit.inspection.checkpoint import layer_table, training_only

    preprocess = preprocess_for(name)
    module = settled(name, preprocess)
    parameters = sum(p.numel() for p in module.parameters()) - sum(training_only(module, name).values())
    macs = sum(row.macs for row in layer_table(module, preprocess))
    checkpoint, graph = folder / "model.pt", folder / "model.onnx"
    save_checkpoint(checkpoint, module, ModelMetadata(name, tuple(map(str, range(CLASSES))), preprocess))
    del module
    exporting = _timed(lambda: toolkit.export(checkpoint, graph, verify=False, force=True))
    start = time.monotonic()
    verification = toolkit.verify(checkpoint, graph, max_batch=8)
    verifying = time.monotonic() - start
    toolkit.calibrate(graph, "digits", method="minmax", images=options.images, force=True)
    int8 = toolkit.build_engine(graph, precision="int8", backend="onnxruntime", force=True, cache=False).engine
    return {
        "input": [preprocess.channels, preprocess.height, preprocess.width],
        "parameters": parameters,
        "macs": macs,
        "export_seconds": round(exporting, 2),
        "verify_seconds": round(verifying, 2),
        "parity": {"passed": verification.passed, "noise_floors": round(verification.worst, 3)},
        "graph_bytes": graph.stat().st_size,
        "onnxruntime": speeds(graph, int8, options),
        "tensorrt_rtx": engines(graph),
    }


def settled(name: str, preprocess: "Preprocess") -> "nn.Module":
    """A network with random weights whose batch normalisations have seen digits.

    γ and β are drawn, since a residual block that starts with γ = 0 would leave its convolutions out. Without set
    means and variances the signal of a deep network explodes or vanishes.
    """
    import torch
    from torch import nn

    from export.models.registry import build
    from toolkit.data import choose, float_batches, open_dataset

    torch.manual_seed(0)
    module = build(name, CLASSES)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None  # the plain average over all batches
    if norms:
        split = open_dataset("digits").train
        with torch.no_grad():
            for images, _ in float_batches(split, preprocess, 8, indices=choose(split, 16)):
                module.train()(torch.from_numpy(images))
    return module.eval()


def speeds(graph: Path, int8: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of FP32 and INT8, and INT8's ratio to FP32 with its interval, by batch size."""
    import toolkit

    sizes = tuple(int(size) for size in options.batch.split(","))
    comparison = toolkit.bench(
        [graph, int8],
        batch_sizes=sizes,
        seconds=options.seconds,
        rounds=options.rounds,
        device="cpu",
        update_passports=False,
    )
    rows = comparison.to_json()["rows"]
    if failed := next((row["failure"] for row in rows if row["failure"]), None):
        raise SystemExit(f"ONNX Runtime: {failed}")
    rates = [{speed["batch"]: speed for speed in row["speed"]} for row in rows]
    return {
        "int8_bytes": int8.stat().st_size,
        "timed": {"seconds": options.seconds, "rounds": options.rounds},
        "warnings": list(comparison.warnings),
        "speed": {
            str(size): {
                "fp32_images_per_second": round(rates[0][size]["images_per_second"], 2),
                "int8_images_per_second": round(rates[1][size]["images_per_second"], 2),
                "ratio": rates[1][size]["ratio"],
            }
            for size in sizes
        },
    }


def engines(graph: Path) -> dict[str, Any]:
    """Sizes and seconds of TensorRT for RTX's engines, whose layers were audited."""
    import toolkit

    found = {}
    for precision in ("fp16", "int8"):
        report = toolkit.build_engine(graph, precision=precision, backend="tensorrt-rtx", force=True, cache=False)
        found[precision] = {
            "bytes": report.size,
            "seconds": round(report.seconds, 2),
            "layers": {kind: round(share, 4) for kind, share in report.layers.shares().items()},
        }
        report.engine.unlink()
    return found


# ---- trained on the digits


def trained(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a trained network gets right in FP32 and in INT8."""
    import toolkit

    checkpoint, graph = folder / "trained.pt", folder / "trained.onnx"
    start = time.monotonic()
    report = toolkit.train(
        "digits", checkpoint, architecture=name, input_size=options.input_size, resumable=False, force=True
    )
    seconds = time.monotonic() - start
    print(report.summary(), flush=True)
    toolkit.export(checkpoint, graph, force=True, data="digits", max_batch=8)
    built = toolkit.build_engine(
        graph, precision="int8", backend="onnxruntime", data="digits", force=True, cache=False
    )
    comparison = toolkit.compare(
        [graph, built.engine],
        "digits",
        batch_sizes=(8,),
        seconds=options.seconds,
        rounds=options.rounds,
        device="cpu",
        update_passports=False,
    )
    rows = comparison.to_json()["rows"]
    if failed := next((row["failure"] for row in rows if row["failure"]), None):
        raise SystemExit(f"{name}: {failed}")
    top1 = {kind: row["accuracy"]["top1"] for kind, row in zip(("fp32", "int8"), rows, strict=True)}
    accuracy = top1["fp32"]["rate"]
    drop = (top1["fp32"]["count"] - top1["int8"]["count"]) / top1["fp32"]["total"]
    return {
        "input": options.input_size,
        "recipe": report.to_json()["recipe"],
        "train_seconds": round(seconds, 1),
        "top1": top1,
        "drop": round(drop, 5),
        "agreement": rows[1]["accuracy"]["agreement"],
        "int8_speed_ratio": rows[1]["speed"][0]["ratio"],
        "timed": {"seconds": options.seconds, "rounds": options.rounds},
        "goal": f"top-1 of at least {LEAST_ACCURACY}, and at most {LARGEST_DROP} lost in INT8",
        "goal_met": accuracy >= LEAST_ACCURACY and drop <= LARGEST_DROP,
    }


def _timed(work: Any) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
