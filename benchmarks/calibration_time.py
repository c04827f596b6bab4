"""Time and memory of calibration: against plain inference, and whole commands against the peers'.

The first is measured inside a process of its own, from the second batch on, over batches that are prepared before
the clock starts, so that no preprocessing flatters the ratio. The second is measured from outside, from the start of
the process to the quantised graph on disk: ours decodes and resizes its images itself, the peers are given theirs
decoded. Either way rivals alternate, and ratios are taken within each round.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import PEER_SETTINGS, command, write_images
from benchmarks.children import run

POOL = 64
"""Different images: they repeat, so that memory is the method's and not the data's."""

Batch = NDArray[np.float32]


def pool_of(graph: Path, batch_size: int) -> list[Batch]:
    """Digits, preprocessed as the graph says."""
    from export.graph import peek_metadata
    from toolkit.data import choose, float_batches, open_dataset

    metadata = peek_metadata(graph)
    if metadata is None:
        raise SystemExit("give a graph exported by `toolkit export`: others don't tell their preprocessing")
    split = open_dataset("digits").train
    return [part for part, _ in float_batches(split, metadata.preprocess, batch_size, indices=choose(split, POOL))]


def batches(pool: Sequence[Batch], images: int) -> Iterator[Batch]:
    """The pool over and over, until there were ``images``."""
    done = 0
    while done < images:
        for batch in pool:
            part = batch[: images - done]
            if len(part):
                yield part
            done += len(part)


# ---- in a child process


def plain(graph: Path, images: int, batch_size: int) -> dict[str, Any]:
    """Nothing but inference."""
    import onnxruntime

    pool = pool_of(graph, batch_size)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    source = batches(pool, images)
    first = next(source)
    session.run(None, {name: first})  # the first run allocates
    loaded = time.perf_counter()
    session.run(None, {name: first})
    for batch in source:
        session.run(None, {name: batch})
    return result(start, loaded)


def ours(graph: Path, images: int, batch_size: int) -> dict[str, Any]:
    """Collect and choose."""
    from calibration.collect import TappedGraph, collect

    pool = pool_of(graph, batch_size)
    start = time.perf_counter()
    tapped = TappedGraph(graph)
    tapped.run(pool[0][:images])  # the first run allocates
    loaded = time.perf_counter()
    collect(tapped, batches(pool, images)).table("entropy")
    return result(start, loaded)


def result(start: float, loaded: float) -> dict[str, Any]:
    end = time.perf_counter()
    return {"seconds": end - loaded, "with_loading": end - start, "peak_resident_bytes": peak_resident()}


def peak_resident() -> int:
    """The most bytes that this process held; getrusage would count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


SIDES = {"plain": plain, "toolkit": ours}


# ---- in the parent


def against_inference(graph: Path, counts: Mapping[int, int], batch_size: int) -> list[dict[str, Any]]:
    """Collecting and choosing beside inference alone.

    Args:
        graph: the FP32 master.
        counts: rounds by number of images.
        batch_size: of both sides.
    """
    rows = []
    for images, rounds in counts.items():
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for turn in range(rounds):
            for side in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
                script = str(Path(__file__).with_name("calibration.py"))
                child = [sys.executable, script, "--child", side, "--graph", str(graph)]
                outcome = run([*child, "--images", str(images), "--batch-size", str(batch_size)], limit=600)
                if outcome.failure:
                    raise SystemExit(f"{side}, {images} images: {outcome.failure}")
                runs[side].append(json.loads(outcome.output.splitlines()[-1]))
        pairs = zip(runs["toolkit"], runs["plain"], strict=True)
        ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
        peaks = {side: max(found["peak_resident_bytes"] for found in runs[side]) for side in SIDES}
        seconds = {side: statistics.median(found["seconds"] for found in runs[side]) for side in SIDES}
        row = {"images": images, "seconds": seconds, "peak_resident_bytes": peaks}
        rows.append(row | {"ratio": statistics.median(ratios), "ratios": ratios, "runs": runs})
        print(
            f"  {images} images: inference {seconds['plain']:.2f} s, calibration {seconds['toolkit']:.2f} s, "
            f"ratio {rows[-1]['ratio']:.2f}, peak {peaks['toolkit'] / 2**30:.2f} GiB",
            flush=True,
        )
    return rows


OURS = "toolkit"
SLOW, SLOW_ROUNDS = 3.0, 2
"""A peer that takes this many times as long as ours takes part in so many rounds only."""


def commands(graph: Path, pythons: Mapping[str, str], images: int, rounds: int) -> dict[str, Any]:
    """Whole commands, from the start of the process to the quantised graph on disk."""
    from export.graph import peek_metadata
    from toolkit.data import choose, open_dataset

    metadata, split = peek_metadata(graph), open_dataset("digits").train
    assert metadata is not None
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        seen = folder / "images.npy"
        write_images(split, metadata.preprocess, seen, choose(split, images))
        toolkit = [str(Path(sys.executable).with_name("toolkit")), "build-engine", str(folder / "model.onnx")]
        toolkit += ["--no-cache"]  # nobody is helped by what an earlier round left
        toolkit += ["--int8", "--backend", "onnxruntime", "--data", "digits", "--images", str(images)]
        lines: dict[str, list[str]] = {OURS: toolkit, "toolkit --method entropy": [*toolkit, "--method", "entropy"]}
        for peer in PEER_SETTINGS:
            if peer.needs in pythons:
                lines[peer.name] = command(peer, pythons, graph, seen, folder / f"quantised{peer.suffix}")
        out: set[str] = set()
        for turn in range(rounds):
            for label in list(lines)[:: 1 if turn % 2 == 0 else -1]:
                if label in out:
                    continue
                for left in [*folder.glob("model*"), *folder.glob("quantised*")]:
                    left.unlink()
                (folder / "model.onnx").symlink_to(graph.resolve())
                outcome = run(lines[label])
                runs.setdefault(label, []).append(outcome.to_json())
                told = outcome.failure or f"{outcome.seconds:.1f} s, {outcome.peak_resident_bytes / 2**30:.2f} GiB"
                print(f"  {label}: {told}", flush=True)
                if outcome.failure:
                    out.add(label)
            if turn + 1 >= SLOW_ROUNDS:
                out |= {label for label in lines if _ratio(runs[label], runs[OURS]) > SLOW}
    missing = {peer.name for peer in PEER_SETTINGS} - set(lines)
    rows: dict[str, Any] = {label: _summary(found, runs[OURS]) for label, found in runs.items()}
    return rows | {label: {"failure": "not measured: no environment given"} for label in sorted(missing)}


def _ratio(runs: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs, reference, strict=False))


def _summary(runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    good = [found for found in runs if "failure" not in found]
    if not good:
        return {"failure": runs[-1]["failure"], "runs": runs}
    return {
        "seconds": statistics.median(found["seconds"] for found in good),
        "peak_resident_bytes": max(found["peak_resident_bytes"] for found in good),
        "times_ours": _ratio(runs, reference),
        "runs": runs,
    }
