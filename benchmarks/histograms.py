"""Counting activations: the toolkit's histogram against those that numpy and others bring, on the same arrays.

Run it on a quiet machine::

    python benchmarks/histograms.py

The arrays are like those that calibrating an AlexNet at 224x224 looks at for one batch: its input, and what lies
behind each of its layers. All sides take turns within every round, in one process. The toolkit's side counts 1,024
bins an octave and finds the exact minimum and maximum; the others count 2,048 equal bins between limits that are
given to them, for which they would need a pass of their own. A library that isn't installed is left out, and the
record says so. It goes to ``benchmarks/results/histograms.json``.
"""

import argparse
import datetime as dt
import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]

RESULTS = FOLDER / "results"
BINS = 2048

# The tensors that AlexNet's ranges are taken from: (values an image, share that a ReLU sets to zero).
TENSORS = {
    "input": (3 * 224 * 224, 0.0),
    "pool1": (64 * 27 * 27, 0.42),
    "pool2": (192 * 13 * 13, 0.35),
    "relu3": (384 * 13 * 13, 0.49),
    "relu4": (256 * 13 * 13, 0.54),
    "pool5": (256 * 6 * 6, 0.28),
    "relu6": (4096, 0.49),
    "relu7": (4096, 0.50),
}

Arrays = list[np.ndarray]
Side = Callable[[], object]


def arrays(images: int) -> Arrays:
    """Normal values, of which a ReLU leaves as many as it does in AlexNet; float32, flat."""
    rng = np.random.default_rng(0)
    made = []
    for size, zeros in TENSORS.values():
        values = rng.standard_normal(size * images, np.float32)
        if zeros:
            values -= np.float32(statistics.NormalDist().inv_cdf(zeros))
            np.maximum(values, 0, out=values)
        else:
            values[0] = -1
        made.append(values)
    return made


def toolkit(data: Arrays, threads: int) -> Side:
    """As calibration counts: pieces of all tensors, shared out between threads."""
    from calibration.histogram import GrowingHistogram, pieces

    pool = ThreadPoolExecutor(threads)

    def count() -> list[GrowingHistogram]:
        histograms = [GrowingHistogram() for _ in data]
        jobs = [
            (histogram, piece) for histogram, values in zip(histograms, data, strict=True) for piece in pieces(values)
        ]
        jobs.sort(key=lambda job: -job[1].size)
        list(pool.map(lambda job: job[0].add(job[1]), jobs))
        return histograms

    return count


def magnitudes(values: np.ndarray) -> np.ndarray:
    """Only the input has both signs; its first value is made negative, and tells."""
    return np.abs(values) if values[0] < 0 else values


def numpy_histogram(data: Arrays, limits: list[float]) -> Side:
    return lambda: [np.histogram(magnitudes(a), BINS, (0, limit)) for a, limit in zip(data, limits, strict=True)]


def boost_histogram(data: Arrays, limits: list[float], threads: int) -> Side:
    library = importlib.import_module("boost_histogram")

    def count() -> None:
        for values, limit in zip(data, limits, strict=True):
            axis = library.axis.Regular(BINS, 0, limit, underflow=False)
            histogram = library.Histogram(axis, storage=library.storage.Int64())
            histogram.fill(magnitudes(values), threads=threads if threads > 1 else None)

    return count


def fast_histogram(data: Arrays, limits: list[float]) -> Side:
    count = importlib.import_module("fast_histogram").histogram1d
    return lambda: [count(magnitudes(a), BINS, (0, limit)) for a, limit in zip(data, limits, strict=True)]


def torch_histc(data: Arrays, limits: list[float]) -> Side:
    library = importlib.import_module("torch")
    pairs = [(library.from_numpy(values), limit) for values, limit in zip(data, limits, strict=True)]
    return lambda: [library.histc(t.abs() if t[0] < 0 else t, BINS, 0, limit) for t, limit in pairs]


def sides(data: Arrays, threads: int) -> tuple[dict[str, Side], dict[str, str]]:
    """What takes part, by name; and what doesn't, with the reason."""
    limits = [float(np.abs(values).max()) for values in data]
    makers: dict[str, Callable[[], Side]] = {
        "toolkit": functools.partial(toolkit, data, threads),
        "toolkit, 1 thread": functools.partial(toolkit, data, 1),
        "numpy.histogram": functools.partial(numpy_histogram, data, limits),
        "boost-histogram": functools.partial(boost_histogram, data, limits, threads),
        "boost-histogram, 1 thread": functools.partial(boost_histogram, data, limits, 1),
        "fast-histogram": functools.partial(fast_histogram, data, limits),
        "torch.histc": functools.partial(torch_histc, data, limits),
    }
    taking, missing = {}, {}
    for name, make in makers.items():
        try:
            taking[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    return taking, missing


def measure(taking: dict[str, Side], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Wall and processor seconds of every side, each round in the other direction."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in taking}
    for count in taking.values():
        count()  # the first run allocates
    for turn in range(rounds):
        for name in list(taking)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(0.05)  # threads that spin after their work give up
            processor, wall = time.process_time(), time.perf_counter()
            taking[name]()
            runs[name].append(
                {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
            )
    return runs


def main() -> None:
    from engines.files import write_atomically
    from toolkit.machine import describe, usable_cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images in the batch [32]")
    parser.add_argument("--rounds", type=int, default=15, help="[15]")
    parser.add_argument("--threads", type=int, default=max(1, int(usable_cores())), help="[one a core]")
    parser.add_argument("--output", type=Path, default=RESULTS / "histograms.json")
    options = parser.parse_args()
    data = arrays(options.images)
    taking, missing = sides(data, options.threads)
    values = sum(part.size for part in data)
    rows: list[dict[str, Any]] = []
    for name, runs in measure(taking, options.rounds).items():
        seconds = statistics.median(run["seconds"] for run in runs)
        processor = statistics.median(run["processor_seconds"] for run in runs)
        rows.append({"name": name, "runs": runs, "seconds": seconds, "processor_seconds": processor})
        print(f"{name:26} {1e3 * seconds:7.1f} ms, {1e9 * processor / values:5.2f} ns of processor time a value")
    for name, reason in missing.items():
        print(f"{name:26} left out: {reason}")
    record = {
        "schema": "onnx-tensorrt-toolkit/histogram-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/histograms.py", *sys.argv[1:]]),
        "machine": describe().to_json(),
        "libraries": {name: version_of(name) for name in ("boost_histogram", "fast_histogram")},
        "settings": {
            "images": options.images,
            "values": values,
            "rounds": options.rounds,
            "threads": options.threads,
            "bins": BINS,
        },
        "missing": missing,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


def version_of(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
