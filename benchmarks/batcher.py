"""What the batcher costs: against a bare loop of full batches, and alone with a session that does nothing.

Run it on a quiet machine::

    python benchmarks/batcher.py                      # AlexNet INT8 with random weights, 224x224, ONNX Runtime
    python benchmarks/batcher.py --graph model.int8.ort.onnx

Four parts. *Load*: 64 threads that ask for one sample after the other, taking turns with a loop of full batches on
the same session. *Half load*: samples that arrive at random, half as many as the loop managed, and how long each
waited against the running time of the batch that it was in. *No-op*: small samples a second through a session that
computes nothing, on one core. *Idle*: what a single request takes longer than the session itself. The record goes to
``benchmarks/results/batcher.json``.
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
sys.path.insert(0, str(FOLDER.parent))

from engines.sessions.fake import FakeSession  # noqa: E402
from toolkit import Batcher  # noqa: E402

RESULTS = FOLDER / "results"
CALLERS = 64
SMALL = (16,)
"""A small sample: 64 bytes, so that what is measured is the moving and not the memory."""


class NoOp(FakeSession):
    """Answers at once, whatever it is asked."""

    def _run(self, feeds: Any, batch: int) -> dict[str, Any]:
        return {"logits": np.zeros((batch, 5), np.float32)}


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def no_op(seconds: float) -> dict[str, float]:
    """Samples a second: one by one from a thread, in groups of 16, and from 256 asyncio tasks."""
    sample, group = np.zeros(SMALL, np.float32), np.zeros((16, *SMALL), np.float32)
    window = 512

    def asking(request: Any, samples: int) -> float:
        moved, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            for answer in [batcher.submit(request) for _ in range(window // samples)]:
                answer.result()
            moved += window
        return moved / passed

    async def awaiting() -> float:
        moved, began = 0, time.perf_counter()

        async def task() -> None:
            nonlocal moved
            while time.perf_counter() - began < seconds:
                await batcher.infer(sample)
                moved += 1

        await asyncio.gather(*(task() for _ in range(256)))
        return moved / (time.perf_counter() - began)

    with one_core(), Batcher(NoOp(SMALL), max_batch=64) as batcher:
        asking(sample, 1)
        return {
            "one_by_one": asking(sample, 1),
            "groups_of_16": asking(group, 16),
            "asyncio": asyncio.run(awaiting()),
        }


def idle(count: int) -> dict[str, Any]:
    """Seconds of single requests to an idle batcher, and of the session alone; they take turns."""
    sample, alone = np.zeros(SMALL, np.float32), NoOp(SMALL)
    times: dict[str, list[float]] = {"session": [], "thread": [], "asyncio": []}

    async def main() -> None:
        for _ in range(count):
            began = time.perf_counter()
            await batcher.infer(sample)
            times["asyncio"].append(time.perf_counter() - began)

    with Batcher(NoOp(SMALL)) as batcher:
        for _ in range(count):
            began = time.perf_counter()
            alone.run({"input": sample[None]})
            between = time.perf_counter()
            batcher.run(sample)
            times["session"].append(between - began)
            times["thread"].append(time.perf_counter() - between)
        asyncio.run(main())
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "median_seconds": medians,
        "p99_seconds": {name: float(np.quantile(values, 0.99)) for name, values in times.items()},
        "overhead_seconds": {name: medians[name] - medians["session"] for name in ("thread", "asyncio")},
    }


def bare_loop(session: Any, data: Any, batch: int, seconds: float) -> float:
    """Samples a second of full batches that lie ready, all of the data in turn."""
    name, done, began = session.inputs[0].name, 0, time.perf_counter()
    batches = [data[at : at + batch] for at in range(0, len(data) - batch + 1, batch)]
    while (passed := time.perf_counter() - began) < seconds:
        session.run({name: batches[done // batch % len(batches)]})
        done += batch
    return done / passed


def callers(batcher: Batcher, data: Any, seconds: float) -> float:
    """Samples a second of threads that each ask for one, wait for the answer, and ask again.

    Counted from when all of them have had answers, so that the first small batches and the last don't count.
    """
    counts, over = [0] * CALLERS, threading.Event()

    def caller(number: int) -> None:
        while not over.is_set():
            batcher.run(data[number % len(data)])
            counts[number] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    while min(counts) < 2:
        time.sleep(0.01)
    before, began = sum(counts), time.perf_counter()
    time.sleep(seconds)
    rate = (sum(counts) - before) / (time.perf_counter() - began)
    over.set()
    for thread in threads:
        thread.join()
    return rate


def half_load(session: Any, batcher: Batcher, data: Any, rate: float, seconds: float) -> dict[str, Any]:
    """Samples arrive at random at half of ``rate``: their times, and as multiples of their batch's running time."""
    plain, runs = session._run, []

    def timed(feeds: Any, batch: int) -> Any:
        began = time.perf_counter()
        result = plain(feeds, batch)
        runs.append((time.perf_counter(), began))
        return result

    session._run = timed
    rng, done = np.random.default_rng(0), []
    due = began = time.perf_counter()
    while due < began + seconds:
        due += rng.exponential(2 / rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        arrived = time.perf_counter()
        answer = batcher.submit(data[len(done) % len(data)])
        answer.add_done_callback(lambda _, arrived=arrived: done.append((arrived, time.perf_counter())))
    answer.result()
    batcher.run(data[0])
    del session._run
    ends = [end for end, _ in runs]
    ratios = []
    for arrived, answered in done:
        # The run that ended last before the answer was this sample's.
        end, start = runs[bisect_left(ends, answered) - 1]
        ratios.append((answered - arrived) / (end - start))
    latencies = [answered - arrived for arrived, answered in done]
    return {
        "samples": len(done),
        "rate": rate / 2,
        "p50_seconds": float(np.quantile(latencies, 0.5)),
        "p99_seconds": float(np.quantile(latencies, 0.99)),
        "p50_of_service": float(np.quantile(ratios, 0.5)),
        "p99_of_service": float(np.quantile(ratios, 0.99)),
    }


def alexnet_int8(folder: Path) -> Path:
    """An INT8 AlexNet with random weights for ONNX Runtime: speed doesn't depend on their values."""
    from benchmarks.int8_onnxruntime import make_graph, make_ours

    master, typed = folder / "model.onnx", folder / "model.int8.onnx"
    make_graph(master)
    make_ours(master, typed, 32)
    return typed


def with_a_model(path: Path, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The two parts that need an engine."""
    from toolkit import open_session

    with open_session(path, device="cpu") as session:
        spec = session.inputs[0]
        rng = np.random.default_rng(0)
        data = rng.standard_normal((max(batch, CALLERS), *spec.shape[1:]), np.float32).astype(spec.dtype)
        rates: dict[str, list[float]] = {"bare_loop": [], "batcher": []}
        with Batcher(session, max_batch=batch) as batcher:
            bare_loop(session, data, batch, seconds / 4)
            callers(batcher, data, seconds / 4)
            for _ in range(rounds):
                rates["bare_loop"].append(bare_loop(session, data, batch, seconds))
                rates["batcher"].append(callers(batcher, data, seconds))
            ratios = [one / other for one, other in zip(rates["batcher"], rates["bare_loop"], strict=True)]
            half = half_load(session, batcher, data, statistics.median(rates["bare_loop"]), 2 * seconds)
            stats = batcher.stats().to_json()
    return {
        "load": {"samples_per_second": rates, "ratios": ratios, "ratio": statistics.median(ratios)},
        "half_load": half,
        "stats": stats,
    }


def main() -> None:
    from engines.files import write_atomically
    from toolkit.machine import describe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, help="a graph for ONNX Runtime [an INT8 AlexNet made here]")
    parser.add_argument("--batch", type=int, default=32, help="samples in a full batch [32]")
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn [5]")
    parser.add_argument("--output", type=Path, default=RESULTS / "batcher.json")
    options = parser.parse_args()
    moved, single = no_op(min(options.seconds, 2.0)), idle(2000)
    with tempfile.TemporaryDirectory() as folder:
        graph = options.graph or alexnet_int8(Path(folder))
        model = with_a_model(graph, options.batch, options.rounds, options.seconds)
    record = {
        "schema": "onnx-tensorrt-toolkit/batcher-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/batcher.py", *sys.argv[1:]]),
        "machine": describe().to_json(),
        "settings": {
            "graph": graph.name, "batch": options.batch, "callers": CALLERS, "rounds": options.rounds,
            "seconds": options.seconds,
        },
        "no_op_samples_per_second": moved,
        "idle": single,
        **model,
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    for name, rate in moved.items():
        print(f"no-op, {name:14} {rate:10,.0f} samples/s on one core")
    for name, overhead in single["overhead_seconds"].items():
        print(f"idle, {name:15} {1e6 * overhead:10.0f} us more than the session alone")
    print(f"{CALLERS} callers          {model['load']['ratio']:10.3f} of a bare loop of batches of {options.batch}")
    print(f"half load, p99      {model['half_load']['p99_of_service']:10.2f} times the running time of its batch")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
