"""What the batcher costs: against a bare loop of full batches, and alone with a session that does nothing.

Run it on a quiet machine::

    python benchmarks/batcher.py                      # AlexNet INT8 with random weights, 224x224, ONNX Runtime
    python benchmarks/batcher.py --graph model.int8.ort.onnx

Four parts. *Load*: 64 threads that ask for one sample after the other, taking turns with a loop of full batches on
the same session, which are put together from samples as well. *Half load*: samples that arrive at random, half as
many as the loop managed, and how long each took against the service time of the batch that it was in. Both with
float32 input, and with uint8 input as servers have it. *No-op*: small samples a second through a session that
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
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
sys.path.insert(0, str(FOLDER.parent))

from engines.sessions.fake import FakeSession  # noqa: E402
from toolkit import Batcher  # noqa: E402
from toolkit.runtime.batching.ride import Ride  # noqa: E402

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
    """Seconds of single requests to an idle batcher, of the session alone, and of bare hops; they take turns.

    A request with a timeout goes by way of the session's own thread, as those of asyncio do; one without is run by
    its caller. What the hop from one thread to another and back costs, depends on the machine: ``thread_hop`` is two
    locks and a thread, ``asyncio_hop`` a lock, a thread and ``call_soon_threadsafe``, and nothing else.
    """
    sample, alone = np.zeros(SMALL, np.float32), NoOp(SMALL)
    kinds = ("session", "thread", "thread_with_timeout", "thread_hop", "asyncio", "asyncio_hop")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}

    def timed(kind: str, function: Callable[[], object]) -> None:
        began = time.perf_counter()
        function()
        times[kind].append(time.perf_counter() - began)

    there, back = threading.Lock(), threading.Lock()
    over, reply = threading.Event(), back.release

    def other() -> None:
        while there.acquire() and not over.is_set():
            reply()

    def there_and_back() -> None:
        there.release()
        back.acquire()

    async def main() -> None:
        nonlocal reply
        loop = asyncio.get_running_loop()
        for _ in range(count):
            began = time.perf_counter()
            await batcher.infer(sample)
            between = time.perf_counter()
            waiter = loop.create_future()
            reply = partial(loop.call_soon_threadsafe, waiter.set_result, None)
            there.release()
            await waiter
            times["asyncio"].append(between - began)
            times["asyncio_hop"].append(time.perf_counter() - between)

    there.acquire()
    back.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    with Batcher(NoOp(SMALL)) as batcher:
        for _ in range(count):
            timed("session", lambda: alone.run({"input": sample[None]}))
            timed("thread", lambda: batcher.run(sample))
            timed("thread_with_timeout", lambda: batcher.run(sample, timeout=60))
            timed("thread_hop", there_and_back)
        asyncio.run(main())
    over.set()
    there.release()
    thread.join()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "median_seconds": medians,
        "p99_seconds": {name: float(np.quantile(values, 0.99)) for name, values in times.items()},
        "overhead_seconds": {
            name: medians[name] - medians["session"] for name in ("thread", "thread_with_timeout", "asyncio")
        },
    }


def bare_loop(session: Any, data: Any, batch: int, seconds: float, *, copied: bool) -> float:
    """Samples a second of full batches, all of the data in turn.

    Args:
        copied: each batch is put together from its samples first, as whoever gets them one by one must do.
    """
    name, done = session.inputs[0].name, 0
    batches = [data[at : at + batch] for at in range(0, len(data) - batch + 1, batch)]
    buffer = np.empty_like(batches[0])
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        fed = batches[done // batch % len(batches)]
        if copied:
            fed = np.stack(list(fed), out=buffer)
        session.run({name: fed})
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


def half_load(batcher: Batcher, data: Any, rate: float, seconds: float) -> dict[str, Any]:
    """Samples arrive at random at half of ``rate``: their times, and as multiples of their batch's service time.

    A batch is in service from when it is formed until it is through: staged, then run. ``ideal`` is what the very
    same arrivals would have got from a batcher that costs nothing, on a session that takes, for a batch of any size,
    the median of what this one took: the wait for the batch before, and the own one.
    """
    rng, done = np.random.default_rng(0), []
    due = began = time.monotonic()
    while due < began + seconds:
        due += rng.exponential(2 / rate)
        time.sleep(max(0.0, due - time.monotonic()))
        answer = batcher.submit(data[len(done) % len(data)])
        answer.add_done_callback(lambda answer: done.append((answer, time.monotonic())))
    answer.result()
    batcher.run(data[0])
    rides = [(answer, ride, at) for answer, at in done if (ride := answer.ride) is not None]
    latencies = [at - answer.arrived for answer, _, at in rides]
    service, running = ({ride: ride.ended - start(ride) for _, ride, _ in rides} for start in (_began, _staged))
    every = {
        "seconds": latencies,
        "of_service": [value / service[ride] for value, (_, ride, _) in zip(latencies, rides, strict=True)],
        "of_running": [value / running[ride] for value, (_, ride, _) in zip(latencies, rides, strict=True)],
        "ideal_of_service": ideal(sorted(answer.arrived for answer, _, _ in rides), service, batcher.max_batch),
    }
    by_size: dict[int, list[float]] = {}
    for ride, took in service.items():
        by_size.setdefault(ride.size, []).append(took)
    return {
        "samples": len(done),
        "rate": rate / 2,
        "batches": {size: {"count": len(took), "service_seconds": took} for size, took in sorted(by_size.items())},
        # The hundredths, from the least to the largest: the 50th and the 99th are what is asked about.
        "quantiles": {name: np.quantile(values, np.linspace(0, 1, 101)).tolist() for name, values in every.items()},
        **{
            f"p{part}_{name}": float(np.quantile(values, part / 100))
            for name, values in every.items()
            for part in (50, 99)
        },
    }


def _began(ride: Ride) -> float:
    return ride.began


def _staged(ride: Ride) -> float:
    return ride.staged


def ideal(arrivals: list[float], service: dict[Ride, float], max_batch: int) -> list[float]:
    """Times of requests as multiples of their batch's, with a batcher that costs nothing."""
    sizes, took = np.array([[ride.size, seconds] for ride, seconds in service.items()]).T
    known = np.unique(sizes)
    medians = [np.median(took[sizes == size]) for size in known]
    now, at, multiples = 0.0, 0, []
    while at < len(arrivals):
        now = max(now, arrivals[at])
        size = min(bisect_right(arrivals, now) - at, max_batch)
        seconds = float(np.interp(size, known, medians))
        now += seconds
        multiples += [(now - arrived) / seconds for arrived in arrivals[at : at + size]]
        at += size
    return multiples


def alexnets_int8(folder: Path) -> dict[str, Path]:
    """INT8 AlexNets with random weights for ONNX Runtime: speed doesn't depend on their values."""
    from benchmarks.int8_onnxruntime import make_graph, make_ours
    from export.graph import load_graph, peek_metadata, save_graph
    from export.passes.uint8_input import take_uint8_input
    from export.properties import write_metadata

    master, floats, pixels = (folder / name for name in ("model.onnx", "model.int8.onnx", "model.int8.uint8.onnx"))
    make_graph(master)
    make_ours(master, floats, 32)
    model, metadata = load_graph(floats), peek_metadata(floats)
    assert metadata is not None
    take_uint8_input(model.graph, metadata.preprocess)
    write_metadata(model, replace(metadata, uint8_input=True))
    save_graph(model, pixels)
    return {"float32": floats, "uint8": pixels}


def with_a_model(path: Path, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The two parts that need an engine."""
    from toolkit import open_session

    with open_session(path, device="cpu") as session:
        spec = session.inputs[0]
        rng = np.random.default_rng(0)
        shape = (max(batch, CALLERS), *spec.shape[1:])
        pixels = rng.integers(0, 256, shape, np.uint8)
        data = pixels if spec.dtype == "uint8" else rng.standard_normal(shape, np.float32).astype(spec.dtype)
        rates: dict[str, list[float]] = {"bare_loop": [], "batcher": [], "bare_loop_without_copies": []}
        with Batcher(session, max_batch=batch) as batcher:
            bare_loop(session, data, batch, seconds / 4, copied=True)
            callers(batcher, data, seconds / 4)
            for _ in range(rounds):
                rates["bare_loop"].append(bare_loop(session, data, batch, seconds, copied=True))
                rates["batcher"].append(callers(batcher, data, seconds))
                rates["bare_loop_without_copies"].append(bare_loop(session, data, batch, seconds, copied=False))
            half = half_load(batcher, data, statistics.median(rates["bare_loop"]), 2 * seconds)
            stats = batcher.stats().to_json()
    ratios = {
        name: [one / other for one, other in zip(rates["batcher"], rates[name], strict=True)]
        for name in ("bare_loop", "bare_loop_without_copies")
    }
    return {
        "load": {
            "samples_per_second": rates,
            "ratios": ratios,
            "ratio": statistics.median(ratios["bare_loop"]),
            "ratio_without_copies": statistics.median(ratios["bare_loop_without_copies"]),
        },
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
        graphs = {"graph": options.graph} if options.graph else alexnets_int8(Path(folder))
        models = {
            name: with_a_model(path, options.batch, options.rounds, options.seconds) for name, path in graphs.items()
        }
    record = {
        "schema": "onnx-tensorrt-toolkit/batcher-benchmark",
        "version": 2,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/batcher.py", *sys.argv[1:]]),
        "machine": describe().to_json(),
        "settings": {
            "graphs": {name: path.name for name, path in graphs.items()}, "batch": options.batch,
            "callers": CALLERS, "rounds": options.rounds, "seconds": options.seconds,
        },
        "no_op_samples_per_second": moved,
        "idle": single,
        "models": models,
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    for name, rate in moved.items():
        print(f"no-op, {name:14} {rate:10,.0f} samples/s on one core")
    for name, overhead in single["overhead_seconds"].items():
        print(f"idle, {name:20} {1e6 * overhead:10.0f} us more than the session alone")
    for name in ("thread_hop", "asyncio_hop"):
        print(f"idle, bare {name:15} {1e6 * single['median_seconds'][name]:10.0f} us")
    for name, model in models.items():
        load, half = model["load"], model["half_load"]
        print(f"{name}: {CALLERS} callers {load['ratio']:.3f} of a bare loop of batches of {options.batch}")
        print(f"{name}: ... {load['ratio_without_copies']:.3f} of one whose batches lie ready")
        print(f"{name}: half load, p99 {half['p99_of_service']:.2f} times the service time of its batch")
        print(f"{name}: ... {half['p99_ideal_of_service']:.2f} with a batcher that costs nothing")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
