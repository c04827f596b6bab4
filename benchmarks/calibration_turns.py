"""Collecting beside plain inference, a few batches each in turns: what a noisy machine does to one it does to both.

Two processes hold the same graph and the same batches. They take turns of :data:`BLOCK` batches, each while the other
waits, and the ratio is taken of neighbouring turns. What ours does in a turn is what
:func:`calibration.collect.collect` does with a batch: run the tapped graph and count every tensor, in full before
the clock stops. Neither side's threads go on spinning in the other's turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

BLOCK = 4
"""Batches a turn."""


def turns(graph: Path, images: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Measure; the images of all turns of a side are ``rounds`` times ``images``."""
    blocks = rounds * -(-images // (BLOCK * batch_size))
    script = [sys.executable, __file__, "--graph", str(graph), "--batch-size", str(batch_size), "--side"]
    workers = {
        side: subprocess.Popen([*script, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in ("plain", "toolkit")
    }
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for worker in workers.values():
        assert _answer(worker) == {"ready": True}
    for turn in range(blocks):
        for side in list(workers)[:: 1 if turn % 2 == 0 else -1]:
            seconds[side].append(float(_ask(workers[side], "go")["seconds"]))
    chosen = float(_ask(workers["toolkit"], "choose")["seconds"])
    for worker in workers.values():
        worker.communicate("")
    ratios = [a / b for a, b in zip(seconds["toolkit"], seconds["plain"], strict=True)]
    ordered, middle = sorted(ratios), statistics.median(ratios)
    share = chosen / (statistics.median(seconds["plain"]) * blocks / rounds)
    found = {
        "images_a_turn": BLOCK * batch_size,
        "turns": blocks,
        "seconds": seconds,
        "choosing_seconds": chosen,
        "collecting_ratio": middle,
        "ratio": middle + share,
        "middle_half": [ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]],
    }
    low, high = found["middle_half"]
    print(
        f"  in {blocks} turns of {BLOCK * batch_size} images: collecting {middle:.3f} (middle half {low:.2f} to "
        f"{high:.2f}), with choosing for {images} images {found['ratio']:.3f}",
        flush=True,
    )
    return found


def _ask(worker: "subprocess.Popen[str]", word: str) -> dict[str, Any]:
    assert worker.stdin
    worker.stdin.write(word + "\n")
    worker.stdin.flush()
    return _answer(worker)


def _answer(worker: "subprocess.Popen[str]") -> dict[str, Any]:
    assert worker.stdout
    return dict(json.loads(worker.stdout.readline()))


# ---- in a child process


def plain(graph: Path, pool: list[Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # don't disturb the other's turn
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def block() -> None:
        for number in range(BLOCK):
            session.run(None, {name: pool[number % len(pool)]})

    return block, lambda: None


def ours(graph: Path, pool: list[Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    from calibration.collect import TappedGraph
    from calibration.counting import Counter
    from calibration.methods import find_method

    tapped = TappedGraph(graph)
    counter = Counter(tapped.groups, None)

    def block() -> None:
        for number in range(BLOCK):
            batch = pool[number % len(pool)]
            counter.start(tapped.run(batch), batch)
            counter.finish()

    def choose() -> None:
        method = find_method("entropy", "int8")
        for histogram in counter.histograms.values():
            method(histogram.freeze())

    return block, choose


def child(side: str, graph: Path, batch_size: int) -> None:
    from benchmarks.calibration_time import pool_of

    block, choose = {"plain": plain, "toolkit": ours}[side](graph, pool_of(graph, batch_size))
    block()  # the first run allocates
    print(json.dumps({"ready": True}), flush=True)
    for word in sys.stdin:
        start = time.perf_counter()
        (choose if word.strip() == "choose" else block)()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("plain", "toolkit"), required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    arguments = parser.parse_args()
    child(arguments.side, arguments.graph, arguments.batch_size)
