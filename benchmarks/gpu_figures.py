"""AlexNet on this GPU through every session that runs here, rivals taking turns.

Run by scripts/gpu-check, offline; prints one JSON object. Each artifact is measured in a process of its own
(toolkit.benchmarking). What can't be measured here keeps its row with the reason.

    python -m benchmarks.gpu_figures [SECONDS]
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import RunError, ToolkitError
from engines.sessions import Session

BATCHES = (1, 8, 32, 128)
CLASSES = 1000


@dataclass(frozen=True)
class Row:
    """One artifact, and how it is opened."""

    name: str
    path: str
    backend: str
    precision: str
    opener: str = "toolkit.loading:open_artifact"
    reason: str = ""


def main(seconds: float, device: str = "cuda:0", batches: tuple[int, ...] = BATCHES) -> dict[str, Any]:
    """Measure; ``seconds`` is the timed running of each artifact at each batch size."""
    from toolkit.benchmarking.messages import Contestant, Opened
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
                WorkerProcess(Contestant(row.path, row.name, device=device, opener=row.opener))
            )
            try:
                opened[row.name] = worker.open()
                workers[row.name] = worker
            except ToolkitError as error:
                reasons[row.name] = str(error)
        timings: dict[tuple[str, int], Any] = {}
        for batch in batches:

            def failed(name: str, error: ToolkitError) -> None:
                reasons[name] = str(error)
                workers.pop(name, None)

            for name, timing in take_turns(dict(workers), batch, Pace(seconds=seconds), failed).items():
                timings[name, batch] = timing.to_json()
    results = []
    for row in rows:
        facts = opened.get(row.name)
        result: dict[str, Any] = {"name": row.name, "backend": row.backend, "precision": row.precision}
        if facts is not None:
            result |= {"device": facts.info.device, "provider": facts.info.provider}
        result["batches"] = {
            str(batch): timings.get((row.name, batch), {"not_measured": reasons.get(row.name, "")})
            for batch in batches
        }
        results.append(result)
    return {"network": f"alexnet, {CLASSES} classes, 224x224, random weights", "rows": results}


def _artifacts(folder: Path) -> Iterator[Row]:
    """The artifacts to measure, made here; those that can't be made carry the reason."""
    checkpoint, graphs, problem = _graphs(folder)
    yield Row("PyTorch FP32", str(checkpoint), "torch", "fp32", reason=problem)
    for precision in ("fp32", "fp16"):
        path = graphs.get(precision, folder)
        yield Row(f"ONNX Runtime CUDA {precision.upper()}", str(path), "onnxruntime", precision, reason=problem)
        yield Row(
            f"ONNX Runtime CUDA {precision.upper()}, plain session.run", str(path), "onnxruntime", precision,
            "benchmarks.gpu_figures:plain_session", problem,
        )  # fmt: skip
    for backend in ("tensorrt", "tensorrt-rtx"):
        for precision in ("fp32", "fp16"):
            path, reason = folder / f"{backend}.{precision}.engine", problem
            if not reason:
                reason = _build(graphs[precision], backend, path)
            opener = "benchmarks.gpu_figures:judged_by_the_library"
            yield Row(f"{backend} {precision.upper()}", str(path), backend, precision, opener, reason)


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
        paths = {"fp32": folder / "alexnet.onnx", "fp16": folder / "alexnet.fp16.onnx"}
        save_graph(model, paths["fp32"])
        save_graph(to_half(model, "fp16"), paths["fp16"])
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


def judged_by_the_library(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """A plan without our own check, so that a GPU outside the documented ones is asked too."""
    from engines.sessions.opening import backend_class, backend_of

    session: Session = backend_class(backend_of(path))(path, device=device, check=False)
    return session


def plain_session(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """ONNX Runtime's own ``session.run`` on CUDA, as most people write it: the baseline for our session."""
    import onnxruntime

    from engines.nvidia_wheels import load_nvidia_wheels
    from engines.sessions.onnxruntime import OnnxRuntimeSession

    class Plain(OnnxRuntimeSession):
        def _run(self, feeds: Any, batch: int) -> Any:
            names = [spec.name for spec in self.outputs]
            return dict(zip(names, self._plain.run(names, dict(feeds)), strict=True))

        def stage_times(self) -> None:
            return None

    load_nvidia_wheels()
    session = Plain(path, device=device)
    cuda = "CUDAExecutionProvider"
    # Without TF32, as our session has it; everything else as it comes.
    providers = [(cuda, {"use_tf32": "0"})]
    session._plain = onnxruntime.InferenceSession(path, providers=providers, enable_fallback=0)
    if cuda not in session._plain.get_providers():
        raise RunError("ONNX Runtime took the CPU though CUDA was asked for", "run `toolkit doctor`")
    return session


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)))
