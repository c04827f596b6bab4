"""Calibration against plain inference: time and memory, each run in a process of its own.

Run it on a quiet machine::

    python benchmarks/calibration.py                      # an AlexNet with random weights, 224x224
    python benchmarks/calibration.py --graph model.onnx

Both sides run the same graph in ONNX Runtime over the same batches, which are prepared before the clock starts, so
that no preprocessing flatters the ratio. They alternate, and the ratio is taken within each pair. The record goes
to ``benchmarks/results/calibration.json``.
"""

import argparse
import datetime as dt
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where this file would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]

RESULTS = FOLDER / "results"
POOL = 64
"""Different images: they repeat, so that memory is the method's and not the data's."""


def pool_of(graph: Path, batch_size: int) -> list[np.ndarray]:
    """Digits, preprocessed as the graph says."""
    from export.graph import peek_metadata
    from toolkit.data import choose, float_batches, open_dataset

    metadata = peek_metadata(graph)
    if metadata is None:
        raise SystemExit("give a graph exported by `toolkit export`: others don't tell their preprocessing")
    split = open_dataset("digits").train
    return [part for part, _ in float_batches(split, metadata.preprocess, batch_size, indices=choose(split, POOL))]


def batches(pool: list[np.ndarray], images: int) -> Iterator[np.ndarray]:
    """The pool over and over, until there were ``images``."""
    done = 0
    while done < images:
        for batch in pool:
            part = batch[: images - done]
            if len(part):
                yield part
            done += len(part)


def plain(graph: Path, images: int, batch_size: int) -> dict[str, Any]:
    """Nothing but inference."""
    import onnxruntime

    pool = pool_of(graph, batch_size)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return timed(start, batches(pool, images), lambda batch: session.run(None, {name: batch}))


def ours(graph: Path, images: int, batch_size: int) -> dict[str, Any]:
    """Collect and choose."""
    from calibration.collect import TappedGraph, collect

    pool = pool_of(graph, batch_size)
    start = time.perf_counter()
    tapped = TappedGraph(graph)
    source = batches(pool, images)
    first = next(source)
    tapped.run(first)  # the first run allocates
    loaded = time.perf_counter()

    def everything() -> Iterator[np.ndarray]:
        yield first
        yield from source

    collect(tapped, everything()).table("entropy")
    return result(start, loaded)


def timed(start: float, source: Iterator[np.ndarray], run: Any) -> dict[str, Any]:
    first = next(source)
    run(first)
    loaded = time.perf_counter()
    run(first)
    for batch in source:
        run(batch)
    return result(start, loaded)


def result(start: float, loaded: float) -> dict[str, Any]:
    end = time.perf_counter()
    return {"seconds": end - loaded, "with_loading": end - start, "peak_resident_bytes": peak_resident()}


def peak_resident() -> int:
    """The most bytes that this process held; getrusage would count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


SIDES = {"plain": plain, "toolkit": ours}


def child(side: str, graph: Path, images: int, batch_size: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, "--graph", str(graph)]
    command += ["--images", str(images), "--batch-size", str(batch_size)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, help="an FP32 master graph [an AlexNet with random weights]")
    parser.add_argument("--images", default="128,512,2048", help="numbers of images [128,512,2048]")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs a number of images [5]")
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(SIDES[options.child](options.graph, int(options.images), options.batch_size)))
        return
    from engines.files import write_atomically
    from toolkit.machine import describe

    rows = []
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        graph = options.graph or Path(folder) / "alexnet.onnx"
        if not options.graph:
            runpy.run_path(str(FOLDER / "int8_onnxruntime.py"))["make_graph"](graph)
        for images in map(int, options.images.split(",")):
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for turn in range(options.rounds):
                for side in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
                    runs[side].append(child(side, graph, images, options.batch_size))
            pairs = zip(runs["toolkit"], runs["plain"], strict=True)
            ratios = [ours["seconds"] / plain["seconds"] for ours, plain in pairs]
            rows.append({"images": images, "runs": runs, "ratios": ratios, "ratio": statistics.median(ratios)})
            peak = max(run["peak_resident_bytes"] for run in runs["toolkit"])
            seconds = {side: statistics.median(run["seconds"] for run in runs[side]) for side in SIDES}
            print(
                f"{images} images: plain {seconds['plain']:.2f} s, calibration {seconds['toolkit']:.2f} s, "
                f"ratio {rows[-1]['ratio']:.2f}, peak {peak / 2**30:.2f} GiB"
            )
    record = {
        "schema": "onnx-tensorrt-toolkit/calibration-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/calibration.py", *sys.argv[1:]]),
        "machine": describe().to_json(),
        "settings": {"batch_size": options.batch_size, "rounds": options.rounds, "method": "entropy", "pool": POOL},
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
