"""How fast the INT8 graphs run: ours beside NNCF's and ``quantize_static``'s, in ONNX Runtime and in OpenVINO.

Every graph has its own process; they take turns, so that ratios hold even where the machine's speed drifts.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy import PEER_SETTINGS, PEERS, command, write_images
from benchmarks.children import run


class SpeedWorker:
    """A process of ``peers/speed.py``; it takes turns like a :class:`toolkit.benchmarking.process.WorkerProcess`."""

    def __init__(self, python: str, graph: Path, runtime: str, *options: str) -> None:
        self.graph, self.runtime = graph, runtime
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, str(PEERS / "speed.py"), str(graph), runtime, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def warm(self, batch: int, seconds: float) -> int:
        return len(self._ask(batch, seconds))

    def block(self, batch: int, seconds: float) -> Any:
        from toolkit.benchmarking.messages import Block

        return Block(tuple(self._ask(batch, seconds)))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe is not None
            pipe.close()

    def _ask(self, batch: int, seconds: float) -> list[float]:
        from engines.errors import RunError

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{batch} {seconds}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait(10)
            self._log.seek(0)
            lines = [line for line in self._log.read().splitlines() if line.strip()]
            raise RunError(lines[-1][:300] if lines else "it ended without a word", "run it alone")
        return list(json.loads(answer))


def make_graphs(graph: Path, folder: Path, pythons: Mapping[str, str], images: int) -> dict[str, tuple[Path, str]]:
    """The contestants: name -> (graph, runtime); ours from one table, the peers' at their defaults."""
    from calibration.qdq import quantise
    from export.graph import load_graph, peek_metadata, save_graph
    from toolkit.data import choose, open_dataset
    from toolkit.steps.calibrate import calibrate

    dataset, metadata = open_dataset("digits"), peek_metadata(graph)
    assert metadata is not None
    seen = folder / "images.npy"
    write_images(dataset.train, metadata.preprocess, seen, choose(dataset.train, images))
    table = calibrate(graph, dataset, images=images, output=folder / "table.json", force=True)
    found: dict[str, tuple[Path, str]] = {"fp32 in onnxruntime": (graph, "onnxruntime")}

    def ours(name: str, runtime: str, placement: str, remainder: Any = None) -> None:
        path = folder / f"ours-{len(found)}.onnx"
        save_graph(quantise(load_graph(graph), table, placement, remainder=remainder), path)
        found[name] = (path, runtime)

    ours("toolkit in onnxruntime", "onnxruntime", "onnxruntime")
    if "nncf" in pythons:
        found["fp32 in openvino"] = (graph, "openvino")
        found["openvino's default for fp32"] = (graph, "openvino")
        ours("toolkit for tensorrt in openvino", "openvino", "tensorrt")
        ours("toolkit for tensorrt, fp32 remainder, in openvino", "openvino", "tensorrt", "fp32")
    for peer in PEER_SETTINGS:
        if peer.needs not in pythons or peer.name not in {"quantize_static minmax", "nncf openvino", "nncf onnx"}:
            continue
        path = folder / f"{peer.name.replace(' ', '-')}{peer.suffix}"
        outcome = run(command(peer, pythons, graph, seen, path))
        if outcome.failure:
            print(f"  {peer.name}: {outcome.failure}", flush=True)
            continue
        runtime = "openvino" if peer.suffix == ".xml" else "onnxruntime"
        found[f"{peer.name} in {runtime}"] = (path, runtime)
    return found


def measure(
    graph: Path,
    pythons: Mapping[str, str],
    *,
    batch_sizes: tuple[int, ...] = (8, 32),
    seconds: float = 4.0,
    rounds: int = 12,
    images: int = 64,
) -> dict[str, Any]:
    """Images per second of each graph, and its ratio to FP32 in the same runtime with a 95 % interval."""
    from toolkit.benchmarking.rounds import Pace, take_turns
    from toolkit.benchmarking.timing import speed_ratio

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        graphs = make_graphs(graph, Path(name), pythons, images)
        workers = {}
        for label, (path, runtime) in graphs.items():
            precise = ("--precision", "f32") if runtime == "openvino" and "default" not in label else ()
            workers[label] = SpeedWorker(
                pythons["nncf" if runtime == "openvino" else "toolkit"], path, runtime, *precise
            )
        failures: dict[str, str] = {}
        try:
            for batch in batch_sizes:
                alive: Any = {label: worker for label, worker in workers.items() if label not in failures}
                timings = take_turns(
                    alive,
                    batch,
                    Pace(seconds=seconds, rounds=rounds, warm_seconds=0.5),
                    lambda label, error: failures.__setitem__(label, error.cause),
                )
                for label, timing in timings.items():
                    reference = timings.get(f"fp32 in {workers[label].runtime}")
                    rows.setdefault(label, {})[str(batch)] = {
                        "images_per_second": round(timing.images_per_second, 1),
                        "ratio_to_fp32": speed_ratio(reference, timing).to_json() if reference else None,
                        "block_seconds": [[round(second, 6) for second in block] for block in timing.blocks],
                    }
                    ratio = rows[label][str(batch)]["ratio_to_fp32"]
                    print(f"  {label}, batch {batch}: {timing.images_per_second:.0f}/s, {ratio}", flush=True)
        finally:
            for worker in workers.values():
                worker.close()
    rows |= {label: {"failure": failure} for label, failure in failures.items()}
    return {"batch_sizes": batch_sizes, "seconds": seconds, "rounds": rounds, "rows": rows}
