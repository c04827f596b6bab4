"""Build an engine: type the graph, lint it, build, audit, write engine and passport."""

import contextlib
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.builders.options import BuildOptions, HardwareCompatibility, check_options
from engines.builders.profiles import parse_profiles
from engines.errors import EngineFormatError, InputError
from engines.passport import Passport, find_passport, passport_path
from engines.progress import QUIET, Progress
from engines.target import find_gpus
from toolkit.building.cached import BuildCache, Recipe
from toolkit.building.choose import (
    PRECISIONS,
    QUANTISED,
    choose_backend,
    engine_path,
    master_graph,
    targets,
)
from toolkit.building.command import build_command
from toolkit.building.job import Job, latency_of, made_from, type_graph
from toolkit.building.make import Candidates, graph_engine, plan_engine
from toolkit.building.ranges import table_path
from toolkit.building.report import BuildReport
from toolkit.building.request import RangesRequest
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from calibration.table import CalibrationTable
    from export.light import SplitGraph
    from toolkit.building.quantised import Prepared
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
    tf32: bool = False,
    optimization_level: int | None = None,
    version_compatible: bool = False,
    hardware_compatibility: HardwareCompatibility | None = None,
    weights_stripped: bool = False,
    allow_partial: bool = False,
    output: str | Path | None = None,
    force: bool = False,
    cache: bool = True,
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
        tf32: whether layers typed FP32 may multiply in TF32.
        optimization_level: 0 to 5, how long the builder searches (TensorRT).
        version_compatible: whether newer releases of the same major version can run the engine (TensorRT).
        hardware_compatibility: "ampere_plus" or "same_compute_capability": GPUs that can run it too (TensorRT).
        weights_stripped: leave the weights out; the graph beside the engine fills them in on load (TensorRT).
        allow_partial: layers of a wider type than asked for are told in the report instead of refused.
        output: the engine's file; None puts it beside the graph.
        force: replace files that were made from something else.
        cache: take the engine from the cache folder where it was built before, and keep it there.
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
    looks = backend in {"auto", "tensorrt"} or precision == "fp8"
    gpus, driver = find_gpus() if looks else ((), None)
    chosen = choose_backend(backend, has_gpu=bool(gpus))
    capabilities = targets(precision, chosen, compute_capabilities, gpus if chosen == "tensorrt" else ())
    options = BuildOptions(
        profiles=parse_profiles(batch),
        workspace=workspace,
        timing_cache=Path(timing_cache) if timing_cache else None,
        tf32=tf32,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        weights_stripped=weights_stripped,
        compute_capabilities=capabilities,
        allow_partial=allow_partial,
    )
    check_options(options, chosen)
    engine = Path(output) if output is not None else engine_path(path, precision, chosen)
    by_default = table is not None and Path(table).resolve() == table_path(path, precision).resolve()
    command = build_command(
        path, precision, chosen, options, output=output, table=None if by_default else table, keep=keep
    )
    with tempfile.TemporaryDirectory(prefix="build-") as folder:
        found = BuildCache(chosen, gpus, driver, enabled=cache)
        job = Job(path, precision, chosen, options, engine, Path(folder), force, found, progress)
        return _build(job, asked, command)


def _build(job: Job, asked: RangesRequest, command: str) -> BuildReport:
    table = (asked.table or table_path(job.path, job.precision)) if job.precision in QUANTISED else None
    recipe = Recipe(job.path, job.precision, job.backend, table, asked.keep, job.options.allow_partial)
    # Data is asked to be calibrated on, and a budget to be measured: both are done every time.
    known = job.cache.graph(recipe) if asked.data is None else None
    prepared: Prepared | None = None
    candidates: Candidates | None = None
    if known is None:
        known, prepared, candidates = type_graph(job, asked, functools.partial(_calibrate, job, asked))
        job.cache.keep_graph(recipe, known)
    typed, notes = known.typed, [*known.notes]
    if job.engine != typed.path:
        check_replace(job.engine, typed.weights, made_from, force=job.force)
    if job.backend == "onnxruntime":
        built = graph_engine(typed, job.options, job.engine, job.cache)
    else:
        ready = candidates.plan(prepared.table) if candidates and prepared else None
        built = plan_engine(typed, job.backend, job.options, job.engine, job.progress, job.cache, ready=ready)
    facts, budget = dict(built.facts), prepared.budget if prepared else None
    facts["calibration"] = known.calibration
    facts["measurements"] = _measured(job.engine, built.digest) if built.cached else {}
    if budget is not None:
        facts["measurements"]["accuracy_budget"] = budget.facts()
    passport = Passport.of(
        job.engine,
        backend=job.backend,
        precision=job.precision,
        command=command,
        digest=built.digest,
        metadata=typed.metadata,
        sources=typed.sources,
        options=job.options.to_json(),
        layers=built.layers.to_json(),
        **facts,
    )
    beside = passport_path(job.engine)
    passport.write(beside)
    if candidates and prepared and budget:  # the engine is complete before it is timed
        latency, more = latency_of(job, candidates, prepared)
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
        partial=built.partial,
        log=built.log,
        phases=built.phases,
        notes=(*notes, *job.cache.notes),
        budget=budget,
        table=prepared.file if prepared and budget else None,
        cached=built.cached,
    )


def _calibrate(
    job: Job, asked: RangesRequest, master: "SplitGraph", data: "str | Path | Dataset"
) -> "CalibrationTable":
    """Measure ranges, and write their table beside the graph."""
    from toolkit.steps.calibrate import calibrate

    return calibrate(
        job.path,
        data,
        method=asked.method,
        precision=job.precision,
        images=asked.images,
        seed=asked.seed,
        force=job.force,
        loaded=master,
        progress=job.progress,
    )


def _measured(engine: Path, digest: str | None) -> dict[str, Any]:
    """What was measured of this very engine, which lay here before and is the same still."""
    with contextlib.suppress(EngineFormatError):
        passport = find_passport(engine)
        if passport is not None and passport.digest == digest:
            return dict(passport.measurements)
    return {}
