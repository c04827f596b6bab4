"""Build an engine: type the graph, lint it, build, audit, write engine and passport."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.builders.audit import LayerReport, audit
from engines.builders.flavours import builder_library
from engines.builders.options import BuildOptions, check_options
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import build_plan
from engines.errors import InputError
from engines.files import write_atomically
from engines.passport import Passport, find_passport, passport_path
from engines.progress import QUIET, Progress
from engines.target import find_gpus
from toolkit.building.choose import PRECISIONS, choose_backend, engine_path, master_graph
from toolkit.building.report import BuildReport
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from calibration.table import CalibrationTable
    from toolkit.building.typed import TypedGraph
    from toolkit.data.dataset import Dataset


def build_engine(
    graph: str | Path | None = None,
    *,
    precision: str = "fp16",
    backend: str = "auto",
    data: "str | Path | Dataset | None" = None,
    table: str | Path | None = None,
    method: str = "entropy",
    images: int = 512,
    seed: int = 0,
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
        precision: "fp32", "fp16", "bf16" or "int8"; it becomes a property of the typed graph.
        backend: "tensorrt", "tensorrt-rtx", "onnxruntime", or "auto".
        data: what to calibrate INT8 on; None takes ``table``, or the table beside the graph.
        table: a calibration table.
        method, images, seed: of the calibration on ``data``.
        batch: optimisation profiles, "MIN:OPT:MAX" each; none means 1:8:32.
        compute_capabilities: ("8.9", ...) to build for (TensorRT for RTX); none means every one from 8.0.
        workspace: bytes of device memory that a layer may use.
        timing_cache: file that keeps kernel timings (TensorRT).
        output: the engine's file; None puts it beside the graph.
        force: replace files that were made from something else.
        progress: told how far calibration and build are.

    Raises:
        InputError: the graph, an option or the data can't be used.
        UnsupportedError: no such backend here, or it can't honour an option.
        BuildError: the builder failed; the node is named where the library tells.
        AuditError: the engine's layers aren't of the precision asked for; nothing is written.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'", f"precisions are {', '.join(PRECISIONS)}")
    path = Path(graph) if graph is not None else master_graph(Path())
    if graph is None and output is not None and Path(output).is_dir():
        raise InputError(f"'{output}' is a folder", "give the engine's file name with --output")
    chosen = choose_backend(backend, has_gpu=backend == "auto" and bool(find_gpus()[0]))
    options = BuildOptions(
        profiles=parse_profiles(batch),
        workspace=workspace,
        timing_cache=Path(timing_cache) if timing_cache else None,
        compute_capabilities=tuple(compute_capabilities),
    )
    if chosen == "onnxruntime":
        check_options(options, chosen)
    else:
        builder_library(chosen, options)  # what it can't do is refused now, before minutes of calibration
    ranges = _Ranges(Path(table) if table else None, data, method, images, seed)
    typed = _typed(path, precision, chosen, ranges, force=force, progress=progress)
    engine = Path(output) if output is not None else engine_path(path, precision, chosen)
    if engine != typed.path:
        check_replace(engine, typed.weights, _made_from, force=force)
    notes = _lint(typed, chosen)
    built = _graph(typed, engine) if chosen == "onnxruntime" else _plan(typed, chosen, options, engine, progress)
    command = _command(path, precision, chosen, options, output)
    passport = Passport.of(
        engine,
        backend=chosen,
        precision=precision,
        command=command,
        metadata=typed.metadata,
        sources=typed.sources,
        options=options.to_json(),
        layers=built.layers.to_json(),
        **built.facts,
    )
    beside = passport_path(engine)
    passport.write(beside)
    return BuildReport(
        engine,
        beside,
        typed.path,
        chosen,
        precision,
        passport.size,
        built.seconds,
        built.layers,
        tuple(sorted(typed.keep)),
        notes,
    )


@dataclass(frozen=True)
class _Ranges:
    table: Path | None
    data: "str | Path | Dataset | None"
    method: str
    images: int
    seed: int

    def measure(self, graph: Path, *, force: bool, progress: Progress) -> "CalibrationTable":
        """Calibrate on the data."""
        from toolkit.steps.calibrate import calibrate

        if self.data is None:
            raise AssertionError("asked only where data is given")
        return calibrate(
            graph,
            self.data,
            method=self.method,
            images=self.images,
            seed=self.seed,
            force=force,
            progress=progress,
        )


@dataclass(frozen=True)
class _Built:
    layers: LayerReport
    seconds: float
    facts: dict[str, Any]


def _typed(
    path: Path, precision: str, backend: str, ranges: _Ranges, *, force: bool, progress: Progress
) -> "TypedGraph":
    from export.graph import load_graph
    from toolkit.building.typed import derive, given_graph, is_typed

    model = load_graph(path)
    calibrates = ranges.data is not None or ranges.table is not None
    if calibrates and precision != "int8":
        raise InputError(
            f"{precision} needs no calibration, but data or a table is given", "leave it out, or ask --int8"
        )
    if is_typed(model):
        if calibrates:
            raise InputError(f"'{path}' is quantised already", "give the master graph to calibrate it anew")
        return given_graph(path, model, precision, backend)
    table = None
    if precision == "int8":
        from toolkit.building.ranges import table_for

        measure = None if ranges.data is None else partial(ranges.measure, path, force=force, progress=progress)
        table = table_for(path, ranges.table, measure)
    return derive(path, model, precision, backend, table=table, force=force)


def _lint(typed: "TypedGraph", backend: str) -> tuple[str, ...]:
    """Refuse Q/DQ that TensorRT would refuse or silently run in float; other findings become notes."""
    if backend == "onnxruntime" or typed.precision != "int8":
        return ()
    from calibration.lint import require_fusible

    return require_fusible(typed.model, typed.path)


def _graph(typed: "TypedGraph", engine: Path) -> _Built:
    from export.graph import inputs, outputs
    from toolkit.building.graph_engine import graph_layers, prove_it_opens, versions

    if engine != typed.path:
        raise InputError(
            "an engine for ONNX Runtime is the typed graph itself, beside its master",
            f"leave --output out; it goes to '{typed.path}'",
        )
    layers = graph_layers(typed)
    audit(layers, typed.precision, keep=typed.keep)
    prove_it_opens(typed)
    facts = {"versions": versions(), "inputs": inputs(typed.model), "outputs": outputs(typed.model)}
    return _Built(layers, 0.0, facts)


def _plan(typed: "TypedGraph", backend: str, options: BuildOptions, engine: Path, progress: Progress) -> _Built:
    built = build_plan(typed.path, backend, options, progress=progress)
    audit(built.layers, typed.precision, keep=typed.keep)
    write_atomically(engine, built.data)
    gpus = find_gpus()[0] if backend == "tensorrt" else ()
    facts = {
        "versions": built.versions,
        "profiles": built.profiles,
        "inputs": built.inputs,
        "outputs": built.outputs,
        "compute_capabilities": built.header.compute_capabilities
        or tuple(gpu.compute_capability for gpu in gpus[:1]),
        "gpu": gpus[0].name if gpus else None,
    }
    return _Built(built.layers, built.seconds, facts)


def _made_from(path: Path) -> str | None:
    """The digest of the weights that an existing engine was built from."""
    passport = find_passport(path)
    return passport.sources.get("weights") if passport else None


def _command(path: Path, precision: str, backend: str, options: BuildOptions, output: str | Path | None) -> str:
    """The command that builds this engine again."""
    words = ["toolkit", "build-engine", str(path), f"--{precision}", "--backend", backend]
    for profile in options.profiles:
        words += ["--batch", str(profile)]
    for capability in options.compute_capabilities:
        words += ["--compute-capability", capability]
    if options.workspace:
        words += ["--workspace", f"{options.workspace >> 20}MiB"]
    if options.timing_cache:
        words += ["--timing-cache", str(options.timing_cache)]
    if output is not None:
        words += ["--output", str(output)]
    return shlex.join(words)
