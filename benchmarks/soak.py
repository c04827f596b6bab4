"""A hundred thousand requests, good and bad, against a real server whose model is replaced and whose session dies.

    python benchmarks/soak.py                          # 100,000 requests from 64 clients, some minutes
    python benchmarks/soak.py --requests 3000 --clients 16

``toolkit serve`` runs in a process of its own, with two sessions of a model whose answers tell their questions and
its version (:mod:`benchmarks.soak_model`). Clients ask it over HTTP and gRPC, rightly and wrongly, hang up, run out
of time, send too much (:mod:`benchmarks.soak_clients`). Meanwhile the model's file is replaced, and sessions die by
signals, also while a file that was replaced waits to be opened. Every good request must get the answer to itself, all
of one version, which isn't older than one that answered before it was asked; every bad one the status that its fault
has, and a message. The server's memory is looked at throughout. Afterwards another server gets SIGTERM under load
(:mod:`benchmarks.soak_drain`): nothing that was asked may go unanswered. The record goes to
``benchmarks/results/soak.json``.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

import numpy as np  # noqa: E402

from benchmarks.soak_clients import MAX_BODY, Client, Tally  # noqa: E402
from benchmarks.soak_model import DELAY_VARIABLE, write_model  # noqa: E402
from benchmarks.soak_requests import MODEL  # noqa: E402

RESULTS = FOLDER / "results"
START = 60.0
"""Seconds that the server gets to listen."""
DELAY = 0.0005
"""Seconds that each run takes at least."""
MAX_BATCH = 16
INSTANCES = 2
DEATHS = (1, INSTANCES, 0)
"""Sessions that are killed right behind a replacement of the model: of the first one, the second, the third, and so
on. The file isn't opened by then, for the server waits until it has stopped changing."""
MENDED = 30.0
"""Seconds until the newest model answers and all its sessions are at work, at most, after the last event."""
LOOK = 0.01
"""Seconds between two looks at how far the clients are."""
SAMPLE = 0.5
"""Seconds between two looks at the memory."""
SETTLED = 0.3
"""The share of the requests after which memory should grow no more: every kind has been seen often by then."""


@dataclass(frozen=True)
class Running:
    """A server at work.

    Attributes:
        process: its own.
        ports: of HTTP and gRPC.
        log: what it writes to standard error.
    """

    process: "subprocess.Popen[str]"
    ports: tuple[int, int]
    log: Path

    def resident_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024


@contextlib.contextmanager
def server(folder: Path, *extra: str, delay: float = DELAY) -> Iterator[Running]:
    """A server of version 1 of the model in ``folder``; killed at the end if it still runs.

    Raises:
        RuntimeError: it didn't start.
    """
    graph, log = folder / f"{MODEL}.onnx", folder / "server.log"
    write_model(graph, 1)
    ports = ("--http-port", "0", "--grpc-port", "0")
    options = (
        "--max-body",
        str(MAX_BODY),
        "--max-batch",
        str(MAX_BATCH),
        "--instances",
        str(INSTANCES),
        "--threads",
        "1",
    )
    command = [sys.executable, str(FOLDER / "soak_server.py"), str(graph), "--device", "cpu", "--json", *ports]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *options, *extra],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, DELAY_VARIABLE: str(delay)},
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server didn't start: {log.read_text()[-2000:]}")
        said = json.loads(line)
        found = (int(said["http"].rpartition(":")[2]), int(said["grpc"].rpartition(":")[2]))
        yield Running(process, found, log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


async def disturb(running: Running, graph: Path, tally: Tally, total: int, reloads: int, kills: int) -> None:
    """Replace the model and kill sessions, evenly over the requests, whether the server is over the last time or not.

    Args:
        reloads: times that the model is replaced; see :data:`DEATHS`.
        kills: sessions that are killed beside those, each by itself.
    """
    events = [
        ((number - 0.5) / reloads, DEATHS[(number - 1) % len(DEATHS)], True) for number in range(1, reloads + 1)
    ]
    events += [(number / (kills + 1) + 0.01, 1, False) for number in range(1, kills + 1)]
    try:
        for share, deaths, replaced in sorted(events):
            while tally.total() < share * total:
                await asyncio.sleep(LOOK)
            if replaced:
                tally.written += 1
                write_model(graph, tally.written)
            for number in range(deaths):
                if number:
                    await asyncio.sleep(LOOK)  # signals of one kind that come at once are one
                running.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + MENDED
        while tally.seen < tally.written or await asyncio.to_thread(metric, running.ports[0], "sessions") < INSTANCES:
            if time.monotonic() > until:
                tally.problems.append(f"the server wasn't over it within {MENDED:.0f} s")
                return
            await asyncio.sleep(LOOK)
    finally:
        tally.disturbed = True


async def watch_memory(running: Running, tally: Tally, samples: list[tuple[int, int]]) -> None:
    """(requests so far, bytes), again and again."""
    while True:
        samples.append((tally.total(), running.resident_bytes()))
        await asyncio.sleep(SAMPLE)


def flatness(samples: list[tuple[int, int]], total: int) -> dict[str, Any]:
    """How memory went once things had settled: bytes a request of a straight line through it, and the ends."""
    later = np.array([sample for sample in samples if sample[0] >= SETTLED * total] or samples[-1:], np.float64)
    slope = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) if len(later) > 2 else None
    return {
        "bytes_a_request": slope,
        "settled_bytes": int(later[0, 1]),
        "last_bytes": int(later[-1, 1]),
        "peak_bytes": max(size for _, size in samples),
        "samples": [list(sample) for sample in samples],
    }


async def soak(
    running: Running, graph: Path, *, requests: int, clients: int, reloads: int, kills: int
) -> dict[str, Any]:
    """Ask ``requests`` times or more from ``clients`` clients, and tell what came of it."""
    tally, samples = Tally(), []
    began = time.perf_counter()
    shares = [requests // clients + (number < requests % clients) for number in range(clients)]
    watching = asyncio.ensure_future(watch_memory(running, tally, samples))
    disturbing = asyncio.ensure_future(disturb(running, graph, tally, requests, reloads, kills))
    await asyncio.gather(*(Client(number, running.ports, tally).run(share) for number, share in enumerate(shares)))
    seconds = time.perf_counter() - began
    await disturbing
    watching.cancel()
    statistics = await asyncio.to_thread(fetch, running.ports[0], f"/v2/models/{MODEL}/stats")
    return {
        "requests": tally.total(),
        "clients": clients,
        "seconds": seconds,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "problems": len(tally.problems),
        "examples": tally.problems[:20],
        "versions": {"written": tally.written, "seen": tally.seen},
        "kills": kills + sum(DEATHS[number % len(DEATHS)] for number in range(reloads)),
        "restarts": metric(running.ports[0], "session_restarts"),
        "failures": metric(running.ports[0], "batch_failures"),
        "still_alive": running.process.poll() is None,
        "memory": flatness(samples, requests),
        "statistics": statistics,
        "tracebacks": running.log.read_text().count("Traceback"),
    }


def fetch(port: int, path: str) -> Any:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def metric(port: int, word: str) -> float:
    """The sum of what the metrics tell of which the name has this word."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if word in line.split("{")[0] and line[0] != "#")


def run_soak(requests: int, clients: int, *, reloads: int = 4, kills: int = 1) -> dict[str, Any]:
    """The soak against a server that is started for it and told to end afterwards.

    Returns:
        What :func:`soak` gives, and the server's ``exit_code``.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name, server(Path(name)) as running:
        graph = Path(name) / f"{MODEL}.onnx"
        found = asyncio.run(soak(running, graph, requests=requests, clients=clients, reloads=reloads, kills=kills))
        running.process.terminate()
        return found | {"exit_code": running.process.wait(60)}


def main() -> None:
    from benchmarks.soak_drain import run_drains
    from engines.files import write_atomically
    from toolkit.machine import describe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="[100000]")
    parser.add_argument("--clients", type=int, default=64, help="[64]")
    parser.add_argument("--reloads", type=int, default=8, help="times that the model is replaced [8]")
    parser.add_argument("--kills", type=int, default=1, help="sessions that are killed beside replacements [1]")
    parser.add_argument("--drains", type=int, default=10, help="servers that get SIGTERM under load [10]")
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    found = run_soak(options.requests, options.clients, reloads=options.reloads, kills=options.kills)
    drains = run_drains(options.drains, options.clients)
    record = {
        "schema": "onnx-tensorrt-toolkit/soak-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/soak.py", *sys.argv[1:]]),
        "machine": describe().to_json(),
        "soak": found,
        "drains": drains,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    for outcome, count in found["outcomes"].items():
        print(f"{outcome:40} {count:8}")
    memory = found["memory"]
    print(f"{found['requests']} requests in {found['seconds']:.0f} s, {found['problems']} of them with a problem")
    for example in found["examples"]:
        print(f"  {example}")
    grown = (memory["last_bytes"] - memory["settled_bytes"]) / 2**20
    print(
        f"memory: {grown:+.1f} MiB since {SETTLED:.0%} of the requests, {memory['bytes_a_request']} bytes a request"
    )
    print(f"versions {found['versions']}, restarts {found['restarts']:.0f}, tracebacks {found['tracebacks']}")
    answered, lost = (sum(drain[key] for drain in drains) for key in ("answered", "lost"))
    print(f"{len(drains)} servers ended under load: {answered} requests answered, {lost} lost")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
