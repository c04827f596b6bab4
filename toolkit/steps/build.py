"""Build an engine: type the graph, lint it, build, audit, write engine and passport."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engines.builders.flavours import builder_library
from engines.builders.options import BuildOptions, check_options
from engines.builders.profiles import parse_profiles
from engines.errors import InputError
from engines.passport import Passport, find_passport, passport_path
from engines.progress import QUIET, Progress
from engines.target import find_gpus
from toolkit.building.choose import (
    PRECISIONS,
    QUANTISED,
    choose_backend,
    engine_path,
    master_graph,
    targets,
    typed_path,
)
from toolkit.building.command import build_command
from toolkit.building.make import Candidates, graph_engine, plan_engine
from toolkit.building.ranges import table_path
from toolkit.building.report import BuildReport
from toolkit.building.request import RangesRequest
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable
    from toolkit.building.latency import Latency
    from toolkit.building.quantised import Prepared
    from toolkit.building.typed import TypedGraph
    from toolkit.data.dataset import Dataset


def build_engine(
    graph: str | Path | None = None,
    *,
    precision: str = "fp16",
    backend: str = "auto",
    data: "str | Path | Dataset | None" = None,
    table: str | Path | None = None,
    method: str = "auto",
    images: int = 512,
    seed: int = 0,
    keep: Sequence[str] = (),
    max_drop: float | None = None,
    search_images: int = 512,
    eval_images: int | None = None,
    batch: Sequence[str] = (),
    compute_capabilities: Sequence[str] = (),
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> BuildReport:
    """Build an engine from a master graph (or from a graph that is typed already).

    Args:
        graph: the ONNX file; None takes the one master graph of the current folder.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8"; it becomes a property of the typed graph.
        backend: "tensorrt", "tensorrt-rtx", "onnxruntime", or "auto".
        data: what to calibrate on, and to hold ``max_drop`` on; None takes ``table``, or the table beside the graph.
        table: a calibration table; with ``max_drop`` it may be given beside ``data``, which then isn't calibrated on.
        method, images, seed: of the calibration on ``data``.
        keep: layers that stay unquantised, by ONNX node or PyTorch module; those that the table keeps stay so too.
        max_drop: points of top-1 that the engine may be worse than FP32 on the test split of ``data``. The fewest
            layers that hold it are kept unquantised and written into the table.
        search_images: training images that those layers are chosen on.
        eval_images: test images that the result is judged on; None takes all.
        batch: optimisation profiles, "MIN:OPT:MAX" each; none means 1:8:32.
        compute_capabilities: ("8.9", ...) to build for (TensorRT for RTX); none means every one that it can.
        workspace: bytes of device memory that a layer may use.
        timing_cache: file that keeps kernel timings (TensorRT).
        output: the engine's file; None puts it beside the graph.
        force: replace files that were made from something else.
        progress: told how far calibration, search and build are.

    Raises:
        InputError: the graph, an option or the data can't be used.
        UnsupportedError: no such backend here, or it can't honour an option.
        BuildError: the builder failed; the node is named where the library tells.
        AuditError: the engine's layers aren't of the precision asked for; nothing is written.
        BudgetError: no choice of layers holds ``max_drop``; nothing is written but a new calibration's table.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'", f"precisions are {', '.join(PRECISIONS)}")
    asked = RangesRequest(
        Path(table) if table else None, data, method, images, seed, tuple(keep), max_drop, search_images, eval_images
    )
    asked.check(precision)
    path = Path(graph) if graph is not None else master_graph(Path())
    if graph is None and output is not None and Path(output).is_dir():
        raise InputError(f"'{output}' is a folder", "give the engine's file name with --output")
    gpus = find_gpus()[0] if backend == "auto" or precision == "fp8" else ()
    chosen = choose_backend(backend, has_gpu=bool(gpus))
    capabilities = targets(precision, chosen, compute_capabilities, gpus if chosen == "tensorrt" else ())
    options = BuildOptions(
        profiles=parse_profiles(batch),
        workspace=workspace,
        timing_cache=Path(timing_cache) if timing_cache else None,
        compute_capabilities=capabilities,
    )
    if chosen == "onnxruntime":
        check_options(options, chosen)
    else:
        builder_library(chosen, options)  # what it can't do is refused now, before minutes of calibration
    engine = Path(output) if output is not None else engine_path(path, precision, chosen)
    by_default = table is not None and Path(table).resolve() == table_path(path, precision).resolve()
    command = build_command(
        path, precision, chosen, options, output=output, table=None if by_default else table, keep=keep
    )
    with tempfile.TemporaryDirectory(prefix="build-") as folder:
        job = _Job(path, precision, chosen, options, engine, Path(folder), force, progress)
        return _build(job, asked, command)


@dataclass(frozen=True)
class _Job:
    """What is built, for what, where to."""

    path: Path
    precision: str
    backend: str
    options: BuildOptions
    engine: Path
    folder: Path
    force: bool
    progress: Progress

    def candidates(self, model: "onnx.ModelProto") -> Candidates:
        return Candidates(self.path, model, self.precision, self.backend, self.options, self.folder, self.progress)


def _build(job: _Job, asked: RangesRequest, command: str) -> BuildReport:
    from export.graph import load_graph
    from toolkit.building.typed import derive, given_graph, is_typed

    model = load_graph(job.path)
    prepared: Prepared | None = None
    candidates: Candidates | None = None
    if is_typed(model):
        asked.refuse_typed(job.path)
        typed = given_graph(job.path, model, job.precision, job.backend)
    else:
        table = None
        if job.precision in QUANTISED:
            candidates = job.candidates(model)
            prepared = _prepare(job, asked, model, candidates)
            table = prepared.table
        typed = derive(job.path, model, job.precision, job.backend, table=table, force=job.force)
    if job.engine != typed.path:
        check_replace(job.engine, typed.weights, _made_from, force=job.force)
    notes = [*(prepared.notes if prepared else ()), *_lint(typed, job.backend)]
    if job.precision == "fp8" and prepared and (without := sorted(typed.keep - set(prepared.table.keep))):
        notes.append(f"no FP8 kernel exists for {', '.join(without)} (a large filter, or transposed): it stays FP16")
    if job.backend == "onnxruntime":
        built = graph_engine(typed, job.engine)
    else:
        ready = candidates.plan(prepared.table) if candidates and prepared else None
        built = plan_engine(typed, job.backend, job.options, job.engine, job.progress, ready=ready)
    facts, budget = dict(built.facts), prepared.budget if prepared else None
    if prepared is not None:
        from calibration.provenance import record_of

        facts["calibration"] = record_of(prepared.table)
    if budget is not None:
        facts["measurements"] = {"accuracy_budget": budget.facts()}
    passport = Passport.of(
        job.engine,
        backend=job.backend,
        precision=job.precision,
        command=command,
        metadata=typed.metadata,
        sources=typed.sources,
        options=job.options.to_json(),
        layers=built.layers.to_json(),
        **facts,
    )
    beside = passport_path(job.engine)
    passport.write(beside)
    if candidates and prepared and budget:  # the engine is complete before it is timed
        latency, more = _latency(job, candidates, prepared)
        notes += more
        budget = replace(budget, latency=latency)
        passport.with_measurements(accuracy_budget=budget.facts()).write(beside)
    return BuildReport(
        engine=job.engine,
        passport=beside,
        typed_graph=typed.path,
        backend=job.backend,
        precision=job.precision,
        size=passport.size,
        seconds=built.seconds,
        layers=built.layers,
        kept=tuple(sorted(typed.keep)),
        notes=tuple(notes),
        budget=budget,
        table=prepared.file if prepared and budget else None,
    )


def _prepare(job: _Job, asked: RangesRequest, model: "onnx.ModelProto", candidates: Candidates) -> "Prepared":
    """The table, measured or found, and the layers to keep."""
    from toolkit.building.quantised import prepare

    if asked.max_drop is not None:
        _check_outputs(job, model)  # before minutes of search

    def measure(data: "str | Path | Dataset") -> "CalibrationTable":
        from toolkit.steps.calibrate import calibrate

        return calibrate(
            job.path,
            data,
            method=asked.method,
            precision=job.precision,
            images=asked.images,
            seed=asked.seed,
            force=job.force,
            model=model,
            progress=job.progress,
        )

    return prepare(job.path, model, job.precision, asked, measure, candidates, job.progress)


def _check_outputs(job: _Job, model: "onnx.ModelProto") -> None:
    """Refuse to replace what was made from something else."""
    from export.graph import weights_digest
    from toolkit.building.typed import derived_from

    weights = weights_digest(model)
    graph = typed_path(job.path, job.precision, job.backend)
    check_replace(graph, weights, derived_from, force=job.force)
    if job.engine != graph:
        check_replace(job.engine, weights, _made_from, force=job.force)


def _latency(
    job: _Job, candidates: Candidates, prepared: "Prepared"
) -> "tuple[tuple[Latency, ...], tuple[str, ...]]":
    """What the layers kept for the budget cost in time, where the engine runs."""
    from toolkit.building.latency import measure_latency

    if not prepared.table.keep:
        return (), ()
    if job.backend != "onnxruntime" and not candidates.runs_engines:
        return (), ("latency not measured here: no GPU that runs the engine",)
    name = job.precision.upper()
    everything = candidates.make(replace(prepared.table, keep=()))
    variants = {f"{name} with nothing kept": everything, f"{name} as built": job.engine}
    if job.backend == "onnxruntime":
        variants = {"FP32": job.path, **variants}
    return measure_latency(variants, progress=job.progress)


def _lint(typed: "TypedGraph", backend: str) -> tuple[str, ...]:
    """Refuse Q/DQ that TensorRT would refuse or silently run in float; other findings become notes."""
    if backend == "onnxruntime" or typed.precision not in QUANTISED:
        return ()
    from calibration.lint import require_fusible

    on_purpose = tuple(f"{name}:" for name in typed.keep)
    return tuple(note for note in require_fusible(typed.model, typed.path) if not note.startswith(on_purpose))


def _made_from(path: Path) -> str | None:
    """The digest of the weights that an existing engine was built from."""
    passport = find_passport(path)
    return passport.sources.get("weights") if passport else None
