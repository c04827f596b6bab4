"""AlexNet on this GPU through every session that runs here, rivals taking turns.

Run by scripts/gpu-check, offline; prints one JSON object. Each artifact is measured in a process of its own
(toolkit.benchmarking). What can't be measured here keeps its row with the reason. The object is printed anew after
every batch size, so that a run that is stopped leaves what it had.

    python -m benchmarks.gpu_figures [SECONDS]
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_goals import goals
from engines.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.benchmarking.messages import Opened

BATCHES = (1, 8, 32, 128)
PIXELS = "fp16.uint8"
KINDS = ("fp32", "fp16", PIXELS)
"""Graphs: by precision, and the FP16 one that takes raw pictures."""
CLASSES = 1000
PATIENCE = 120.0
"""Seconds without an answer after which a row counts as hung; in first runs kernels are compiled and searched for."""


@dataclass(frozen=True)
class Row:
    """One artifact, and how it is opened."""

    name: str
    path: str
    backend: str
    precision: str
    opener: str = "toolkit.loading:open_artifact"
    reason: str = ""


def main(
    seconds: float,
    device: str = "cuda:0",
    batches: tuple[int, ...] = BATCHES,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Measure; ``seconds`` is the timed running of each artifact at each batch size.

    ``report`` is given the figures so far when everything is open, and after every batch size.
    """
    from toolkit.benchmarking.messages import Contestant
    from toolkit.benchmarking.process import WorkerProcess
    from toolkit.benchmarking.rounds import Pace, take_turns

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        rows = list(_artifacts(Path(folder)))
        reasons = {row.name: row.reason for row in rows if row.reason}
        workers: dict[str, WorkerProcess] = {}
        opened: dict[str, Opened] = {}
        for row in rows:
            if row.name in reasons:
                continue
            worker = stack.enter_context(
                WorkerProcess(Contestant(row.path, row.name, device=device, opener=row.opener), patience=PATIENCE)
            )
            try:
                opened[row.name] = worker.open()
                workers[row.name] = worker
            except ToolkitError as error:
                reasons[row.name] = str(error)
        timings: dict[tuple[str, int], Any] = {}
        report(_figures(rows, opened, timings, reasons, batches))
        for batch in batches:

            def failed(name: str, error: ToolkitError) -> None:
                reasons[name] = str(error)
                workers.pop(name, None)

            for name, timing in take_turns(dict(workers), batch, Pace(seconds=seconds), failed).items():
                timings[name, batch] = timing.to_json()
            report(_figures(rows, opened, timings, reasons, batches))
    return _figures(rows, opened, timings, reasons, batches)


def _figures(
    rows: list[Row],
    opened: "Mapping[str, Opened]",
    timings: Mapping[tuple[str, int], Any],
    reasons: Mapping[str, str],
    batches: tuple[int, ...],
) -> dict[str, Any]:
    """What is known, with the reason where a figure is missing."""
    results = []
    for row in rows:
        facts = opened.get(row.name)
        result: dict[str, Any] = {"name": row.name, "backend": row.backend, "precision": row.precision}
        if facts is not None:
            result |= {"device": facts.info.device, "provider": facts.info.provider}
        result["batches"] = {
            str(batch): timings.get((row.name, batch), {"not_measured": reasons.get(row.name, "not yet")})
            for batch in batches
        }
        results.append(result)
    network = f"alexnet, {CLASSES} classes, 224x224, random weights"
    return {"network": network, "rows": results, "goals": goals(results)}


def _artifacts(folder: Path) -> Iterator[Row]:
    """The artifacts to measure, made here; those that can't be made carry the reason."""
    checkpoint, graphs, problem = _graphs(folder)
    yield Row("PyTorch FP32", str(checkpoint), "torch", "fp32", reason=problem)
    for kind in KINDS:
        path = str(graphs.get(kind, folder))
        name = f"ONNX Runtime CUDA {_words(kind)}"
        yield from _ways(name, path, "onnxruntime", kind, problem)
        if kind != PIXELS:
            plain = "benchmarks.gpu_sessions:plain"
            yield Row(f"{name}, plain session.run", path, "onnxruntime", kind, plain, problem)
    for backend in ("tensorrt", "tensorrt-rtx"):
        for kind in KINDS:
            engine, reason = folder / f"{backend}.{kind}.engine", problem
            if not reason:
                reason = _build(graphs[kind], backend, engine)
            yield from _ways(f"{backend} {_words(kind)}", str(engine), backend, kind, reason)


def _ways(name: str, path: str, backend: str, kind: str, reason: str) -> Iterator[Row]:
    """One engine through our session: run(), slots filled from an array, slots whose inputs are in place."""
    opener = "benchmarks.gpu_sessions"
    yield Row(name, path, backend, kind, f"{opener}:judged_by_the_library", reason)
    if kind != "fp32":
        yield Row(f"{name}, slots", path, backend, kind, f"{opener}:slots_filled", reason)
        yield Row(f"{name}, slots in place", path, backend, kind, f"{opener}:slots_in_place", reason)


def _words(kind: str) -> str:
    return "FP16 from uint8" if kind == PIXELS else kind.upper()


def _graphs(folder: Path) -> tuple[Path, dict[str, Path], str]:
    checkpoint = folder / "alexnet.pt"
    try:
        import torch

        from engines.metadata import ModelMetadata
        from engines.preprocess import Preprocess
        from export.checkpoint import save_checkpoint
        from export.graph import save_graph
        from export.models.registry import build
        from export.onnx_export import to_onnx
        from export.precision import to_half

        torch.manual_seed(0)
        module = build("alexnet", CLASSES).eval()
        metadata = ModelMetadata("alexnet", tuple(f"class {i}" for i in range(CLASSES)), Preprocess(224, 224))
        save_checkpoint(checkpoint, module, metadata)
        model = to_onnx(module, metadata)
        paths = {kind: folder / f"alexnet.{kind}.onnx" for kind in KINDS}
        save_graph(model, paths["fp32"])
        save_graph(to_half(model, "fp16"), paths["fp16"])
        save_graph(to_half(to_onnx(module, metadata, uint8_input=True), "fp16"), paths[PIXELS])
    except Exception as error:
        return checkpoint, {}, f"the graphs could not be made: {' '.join(str(error).split())}"
    return checkpoint, paths, ""


def _build(graph: Path, backend: str, path: Path) -> str:
    """Build a plan; why it couldn't be, or nothing."""
    from engines.builders.options import BuildOptions
    from engines.builders.profiles import parse_profiles
    from engines.builders.tensorrt import build_plan

    try:
        plan = build_plan(graph, backend, BuildOptions(profiles=parse_profiles((f"1:32:{max(BATCHES)}",))))
        path.write_bytes(plan.data)
    except Exception as error:
        return " ".join(str(error).split())
    return ""


if __name__ == "__main__":

    def show(figures: dict[str, Any]) -> None:
        print(json.dumps(figures), flush=True)

    show(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, report=show))
