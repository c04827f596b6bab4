"""From a typed graph to the engine on disk, audited; and candidates for one, made in a folder of their own."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.builders.audit import LayerReport
from engines.builders.log import write_log
from engines.builders.tensorrt import BuiltPlan
from engines.errors import InputError, ToolkitError
from engines.files import write_atomically
from engines.portability import reasons_not_to_run
from engines.progress import Progress
from engines.target import find_gpus
from engines.tensors import TensorSpec
from toolkit.building.choose import engine_path, typed_path
from toolkit.building.explain import build_explained, proven

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable
    from engines.builders.options import BuildOptions
    from toolkit.building.cached import BuildCache
    from toolkit.building.typed_graph import TypedGraph


@dataclass(frozen=True)
class Built:
    """An engine on disk.

    Attributes:
        layers: the types of its layers, audited.
        seconds: that the builder took; 0 for a graph that is its own engine.
        facts: further attributes of its passport.
        partial: its layers of another precision than asked for, in words; none without ``allow_partial``.
        phases: seconds that the builder took by phase, in plain words.
        log: the builder's log beside it.
        digest: of the engine's file, where it is known.
        cached: whether it was built before, and taken from the cache.
    """

    layers: LayerReport
    seconds: float
    facts: dict[str, Any]
    partial: tuple[str, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    log: Path | None = None
    digest: str | None = None
    cached: bool = False


def graph_engine(typed: "TypedGraph", options: "BuildOptions", engine: Path, cache: "BuildCache") -> Built:
    """ONNX Runtime's engine: the typed graph itself.

    Raises:
        InputError: another file was asked for.
        AuditError: its layers aren't of the precision asked for.
        GraphError: ONNX Runtime refuses it.
    """
    if engine != typed.path:
        raise InputError(
            "an engine for ONNX Runtime is the typed graph itself, beside its master",
            f"leave --output out; it goes to '{typed.path}'",
        )
    if (found := cache.facts(typed, options)) is not None:
        layers = LayerReport.from_json(found["layers"])
        partial = proven(layers, typed, options)
        tensors = {name: tuple(map(TensorSpec.from_json, found[name])) for name in ("inputs", "outputs")}
        return Built(
            layers, 0.0, {"versions": found["versions"], **tensors}, partial, digest=cache.digest(engine), cached=True
        )
    from export.graph import inputs, outputs
    from toolkit.building.graph_engine import graph_layers, prove_it_opens, versions

    layers = graph_layers(typed)
    partial = proven(layers, typed, options)
    prove_it_opens(typed)
    facts: dict[str, Any] = {
        "versions": versions(),
        "inputs": inputs(typed.structure),
        "outputs": outputs(typed.structure),
    }
    said = {name: [spec.to_json() for spec in facts[name]] for name in ("inputs", "outputs")}
    cache.keep_facts(typed, options, {"layers": layers.to_json(), "versions": facts["versions"], **said})
    digest = typed.sources.get("typed_graph") or cache.digest(engine)  # it was digested as it was written
    return Built(layers, 0.0, facts, partial, digest=digest)


def plan_engine(
    typed: "TypedGraph",
    backend: str,
    options: "BuildOptions",
    engine: Path,
    progress: Progress,
    cache: "BuildCache",
    *,
    ready: BuiltPlan | None = None,
) -> Built:
    """A plan, from the cache or built, and written; ``ready`` is one of this very graph that was built already.

    Raises:
        BuildError: the builder failed.
        AuditError: its layers aren't of the precision asked for; nothing is written.
    """
    known = None if ready else cache.plan(typed, options)
    if known is not None:
        built, digest = known.built, known.digest
        partial = proven(built.layers, typed, options)
        cache.place(known, engine)
    else:
        built = ready or _timed(
            lambda asked: build_explained(
                typed.path, lambda: typed.model, backend, asked, engine=engine, progress=progress
            ),
            options,
            cache.timing(),
        )
        partial = proven(built.layers, typed, options, engine=engine, log=built.log)
        write_atomically(engine, built.data)
        digest = cache.keep_plan(typed, options, built, engine) or cache.digest(engine)
    log = write_log(engine, built.log)
    capability = built.machine.get("compute_capability")
    facts = {
        "versions": built.versions,
        "profiles": built.profiles,
        "inputs": built.inputs,
        "outputs": built.outputs,
        "compute_capabilities": built.header.compute_capabilities or ((capability,) if capability else ()),
        **{name: built.machine.get(name) for name in ("gpu", "driver", "cuda")},
        "partial": partial,
        "log": log.name,
    }
    if known is not None:
        facts["created"] = known.created
    return Built(
        built.layers, built.seconds, facts, partial, built.phases, log, digest=digest, cached=known is not None
    )


def _timed(build: "Callable[[BuildOptions], BuiltPlan]", options: "BuildOptions", timing: Path | None) -> BuiltPlan:
    """Build with the cache folder's timings, where the user named no file for them; without, if they are no good."""
    if timing is None or options.timing_cache is not None:
        return build(options)
    try:
        return build(replace(options, timing_cache=timing))
    except InputError as error:
        if str(timing) not in error.cause:
            raise
    with contextlib.suppress(OSError):
        timing.unlink()
    return build(options)


class Candidates:
    """Makes what would ship, one candidate at a time, so that it can be judged before anything is replaced.

    Args:
        graph: the master graph's file.
        model: its content.
        precision: "int8" or "fp8".
        backend: whose engine it will be.
        options: of the build.
        folder: an empty folder; each candidate replaces the one before.
        progress: told of builds.
        timing: where TensorRT's timings are kept when the options don't say; None keeps none.

    Attributes:
        target: whose Q/DQ placement the graphs have: "onnxruntime" or "tensorrt".
        runs_engines: whether engines run on this machine: then they are what is judged, else their graphs.
    """

    def __init__(
        self,
        graph: Path,
        model: "onnx.ModelProto",
        precision: str,
        backend: str,
        options: "BuildOptions",
        folder: Path,
        progress: Progress,
        timing: Path | None = None,
    ) -> None:
        self._model, self._backend, self._options, self._progress = model, backend, options, progress
        self._timing = timing
        self._graph = folder / typed_path(graph, precision, backend).name
        self._engine = folder / engine_path(graph, precision, backend).name
        self.target = "onnxruntime" if backend == "onnxruntime" else "tensorrt"
        self._plan: tuple[str, BuiltPlan] | None = None
        self.runs_engines = backend == "tensorrt" or (backend == "tensorrt-rtx" and bool(find_gpus()[0]))

    def make(self, table: "CalibrationTable") -> Path:
        """The engine that this table makes where it runs here, else its graph."""
        from calibration.qdq import quantise
        from export.graph import save_graph

        model = quantise(self._model, table, self.target)
        save_graph(model, self._graph)
        self._plan = None
        if not self.runs_engines:
            return self._graph
        built = build_explained(self._graph, lambda: model, self._backend, self._options, progress=self._progress)
        write_atomically(self._engine, built.data)
        if self._refused():
            self.runs_engines = False
            return self._graph
        self._plan = table.digest(), built
        return self._engine

    def plan(self, table: "CalibrationTable") -> BuiltPlan | None:
        """The plan that :meth:`make` built last, if it is of this table: what was judged is what ships."""
        return self._plan[1] if self._plan is not None and self._plan[0] == table.digest() else None

    def _refused(self) -> bool:
        """Whether this machine's GPU or library can't run what was built (a plan for other GPUs)."""
        from engines.sessions import open_session

        if reasons_not_to_run(self._engine):
            return True
        with contextlib.suppress(ToolkitError), open_session(self._engine):
            return False
        return True
