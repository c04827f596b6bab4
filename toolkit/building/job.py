"""One build: what is built for what, and the typed graph it starts from, made and checked."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engines.builders.flavours import builder_library
from engines.builders.options import BuildOptions
from engines.passport import find_passport
from engines.progress import Progress
from toolkit.building.cached import BuildCache, KnownGraph
from toolkit.building.choose import QUANTISED, typed_path
from toolkit.building.make import Candidates
from toolkit.building.request import RangesRequest
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from calibration.table import CalibrationTable
    from export.light import SplitGraph
    from toolkit.building.latency import Latency
    from toolkit.building.quantised import Measure, Prepared
    from toolkit.building.typed_graph import TypedGraph
    from toolkit.data.dataset import Dataset

    Calibrate = Callable[[SplitGraph, "str | Path | Dataset"], CalibrationTable]


@dataclass(frozen=True)
class Job:
    """What is built, for what, where to."""

    path: Path
    precision: str
    backend: str
    options: BuildOptions
    engine: Path
    folder: Path
    force: bool
    cache: BuildCache
    progress: Progress

    def candidates(self, model: "onnx.ModelProto") -> Candidates:
        timing = self.cache.timing()
        return Candidates(
            self.path, model, self.precision, self.backend, self.options, self.folder, self.progress, timing
        )


def type_graph(
    job: Job, asked: RangesRequest, calibrate: "Calibrate"
) -> "tuple[KnownGraph, Prepared | None, Candidates | None]":
    """The typed graph, made and checked; for a quantised one what it was made from, and what can make others.

    Args:
        job: what is built.
        asked: where ranges come from, and how accurate the engine must be.
        calibrate: measures ranges of the loaded master graph on data, and writes their table.

    Raises:
        ToolkitError: as :func:`toolkit.build_engine` says.
    """
    job.cache.begin_digest(job.path)  # while modules are loaded and it is parsed, which one thread does
    from export.graph import load_graph
    from export.light import SplitGraph, load_light
    from toolkit.building.typed import derive, given_graph, is_typed

    if job.backend != "onnxruntime":
        builder_library(job.backend, job.options)  # what it can't do is refused now, before minutes of calibration
    quantised = job.precision in QUANTISED
    master = load_light(job.path) if quantised else SplitGraph(load_graph(job.path))
    prepared: Prepared | None = None
    candidates: Candidates | None = None
    if is_typed(master.model):
        asked.refuse_typed(job.path)
        typed = given_graph(job.path, master.whole(), job.precision, job.backend, job.cache.digest)
    else:
        table = weights = None
        if quantised:
            # A calibration needs no more of the master than is in the light one.
            model = master.model if asked.measures_only else master.whole()
            candidates = job.candidates(model)
            prepared = _prepare(job, asked, model, candidates, functools.partial(calibrate, master))
            table, weights = prepared.table, prepared.weights
        typed = derive(
            job.path,
            master.model,
            job.precision,
            job.backend,
            table=table,
            weights=weights,
            arrays=master.arrays,
            force=job.force,
            digest=job.cache.digest,
            remember=job.cache.remember,
        )
    notes = [*(prepared.notes if prepared else ()), *_lint(typed, job.backend, allow_float=job.options.allow_partial)]
    if job.precision == "fp8" and prepared and (without := sorted(typed.keep - set(prepared.table.keep))):
        notes.append(f"no FP8 kernel exists for {', '.join(without)} (a large filter, or transposed): it stays FP16")
    calibration = None
    if prepared is not None:
        from calibration.provenance import record_of

        calibration = record_of(prepared.table)
    return KnownGraph(typed, tuple(notes), calibration), prepared, candidates


def _prepare(
    job: Job, asked: RangesRequest, model: "onnx.ModelProto", candidates: Candidates, measure: "Measure"
) -> "Prepared":
    """The table, measured or found, and the layers to keep."""
    from toolkit.building.quantised import prepare

    if asked.max_drop is not None:
        _check_outputs(job, model)  # before minutes of search
    return prepare(job.path, model, job.precision, asked, measure, candidates, job.progress)


def _check_outputs(job: Job, model: "onnx.ModelProto") -> None:
    """Refuse to replace what was made from something else."""
    from export.graph import weights_digest
    from toolkit.building.typed import derived_from

    weights = weights_digest(model)
    graph = typed_path(job.path, job.precision, job.backend)
    check_replace(graph, weights, derived_from, force=job.force)
    if job.engine != graph:
        check_replace(job.engine, weights, made_from, force=job.force)


def latency_of(
    job: Job, candidates: Candidates, prepared: "Prepared"
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


def _lint(typed: "TypedGraph", backend: str, *, allow_float: bool) -> tuple[str, ...]:
    """Refuse Q/DQ that TensorRT would refuse or silently run in float; other findings become notes."""
    if backend == "onnxruntime" or typed.precision not in QUANTISED:
        return ()
    from calibration.lint import require_fusible

    on_purpose = tuple(f"{name}:" for name in typed.keep)
    found = require_fusible(typed.model, typed.path, allow_float=allow_float)
    return tuple(note for note in found if not note.startswith(on_purpose))


def made_from(path: Path) -> str | None:
    """The digest of the weights that an existing engine was built from."""
    passport = find_passport(path)
    return passport.sources.get("weights") if passport else None
