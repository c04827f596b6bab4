"""INT8 on ONNX Runtime's CPU kernels: our placement against FP32 and against ``quantize_static``.

Run it on a quiet machine::

    python benchmarks/int8_onnxruntime.py                 # an AlexNet with random weights, 224x224
    python benchmarks/int8_onnxruntime.py --graph model.onnx

Every graph has its own process; they take turns, so that ratios hold even where the machine's speed drifts. Both
INT8 graphs are made here from the same master graph and the same calibration images. The record goes to
``benchmarks/results/int8_onnxruntime.json``.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]

RESULTS = FOLDER / "results"
OURS, FP32 = "toolkit", "fp32"


def make_graph(path: Path) -> None:
    """An AlexNet with random weights: speed doesn't depend on their values."""
    import torch

    from engines.metadata import ModelMetadata
    from engines.preprocess import Preprocess
    from export.graph import save_graph
    from export.models.registry import build
    from export.onnx_export import to_onnx

    torch.manual_seed(0)
    metadata = ModelMetadata("alexnet", tuple(map(str, range(10))), Preprocess(224, 224, resize="stretch"))
    save_graph(to_onnx(build("alexnet", 10).eval(), metadata), path)


def calibration_batches(graph: Path, images: int, batch_size: int) -> Iterator[np.ndarray]:
    """Digits, preprocessed as the graph says."""
    from export.graph import peek_metadata
    from toolkit.data import choose, float_batches, open_dataset

    metadata = peek_metadata(graph)
    if metadata is None:
        raise SystemExit("give a graph exported by `toolkit export`: others don't tell their preprocessing")
    split = open_dataset("digits").train
    for batch, _ in float_batches(split, metadata.preprocess, batch_size, indices=choose(split, images)):
        yield batch


def make_ours(graph: Path, output: Path, images: int) -> None:
    from calibration.collect import collect
    from calibration.qdq import quantise
    from export.graph import load_graph, save_graph

    table = collect(graph, calibration_batches(graph, images, 32)).table("entropy")
    save_graph(quantise(load_graph(graph), table, "onnxruntime"), output)


def make_theirs(graph: Path, output: Path, images: int, *, per_channel: bool) -> None:
    """What ONNX Runtime's own tool makes: pre-processed, calibrated by min-max, its defaults otherwise."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from export.graph import inputs, load_graph

    name = inputs(load_graph(graph))[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = calibration_batches(graph, images, 8)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    prepared = output.with_suffix(".pre.onnx")
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(str(prepared), str(output), Reader(), per_channel=per_channel)
    prepared.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, help="an FP32 master graph [an AlexNet with random weights]")
    parser.add_argument("--batch", default="8,32", help="batch sizes [8,32]")
    parser.add_argument("--images", type=int, default=64, help="calibration images [64]")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed running a graph and batch size [8]")
    parser.add_argument("--rounds", type=int, default=16, help="turns that this is cut into [16]")
    parser.add_argument("--threads", type=int, help="CPU threads [ONNX Runtime's choice]")
    parser.add_argument("--output", type=Path, default=RESULTS / "int8_onnxruntime.json")
    options = parser.parse_args()
    from engines.files import write_atomically
    from export.graph import load_graph, save_graph
    from toolkit.steps.bench import bench

    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        graphs = {name: Path(folder) / f"{name}.onnx" for name in (FP32, OURS, "quantize_static", "per_channel")}
        if options.graph:
            save_graph(load_graph(options.graph), graphs[FP32])
        else:
            make_graph(graphs[FP32])
        make_ours(graphs[FP32], graphs[OURS], options.images)
        make_theirs(graphs[FP32], graphs["quantize_static"], options.images, per_channel=False)
        make_theirs(graphs[FP32], graphs["per_channel"], options.images, per_channel=True)
        comparison = bench(
            list(graphs.values()),
            batch_sizes=[int(size) for size in options.batch.split(",")],
            seconds=options.seconds,
            rounds=options.rounds,
            device="cpu",
            threads=options.threads,
            update_passports=False,
        )
    record = comparison.to_json()
    record["command"] = " ".join(["python", "benchmarks/int8_onnxruntime.py", *sys.argv[1:]])
    record["summary"] = summary = {}
    for row in record["rows"]:
        row["path"] = Path(row["path"]).name
        rates = {str(speed["batch"]): speed for speed in row["speed"]}
        summary[row["name"]] = {
            batch: {"images_per_second": round(speed["images_per_second"], 1), "ratio_to_fp32": speed["ratio"]}
            for batch, speed in rates.items()
        }
        print(row["name"], json.dumps(summary[row["name"]]), row["failure"] or "")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
