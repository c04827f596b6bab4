"""From a typed graph to the engine on disk, audited; and candidates for one, made in a folder of their own."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.builders.audit import LayerReport, audit
from engines.builders.tensorrt import BuiltPlan, build_plan
from engines.errors import InputError, ToolkitError
from engines.files import write_atomically
from engines.portability import reasons_not_to_run
from engines.progress import Progress
from engines.target import find_gpus
from toolkit.building.choose import engine_path, typed_path

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable
    from engines.builders.options import BuildOptions
    from toolkit.building.typed import TypedGraph


@dataclass(frozen=True)
class Built:
    """An engine on disk.

    Attributes:
        layers: the types of its layers, audited.
        seconds: that the builder took; 0 for a graph that is its own engine.
        facts: further attributes of its passport.
    """

    layers: LayerReport
    seconds: float
    facts: dict[str, Any]


def graph_engine(typed: "TypedGraph", engine: Path) -> Built:
    """ONNX Runtime's engine: the typed graph itself.

    Raises:
        InputError: another file was asked for.
        AuditError: its layers aren't of the precision asked for.
        GraphError: ONNX Runtime refuses it.
    """
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
    return Built(layers, 0.0, facts)


def plan_engine(
    typed: "TypedGraph",
    backend: str,
    options: "BuildOptions",
    engine: Path,
    progress: Progress,
    *,
    ready: BuiltPlan | None = None,
) -> Built:
    """A plan, built and written; ``ready`` is one of this very graph that was built already.

    Raises:
        BuildError: the builder failed.
        AuditError: its layers aren't of the precision asked for; nothing is written.
    """
    built = ready or build_plan(typed.path, backend, options, progress=progress)
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
    return Built(built.layers, built.seconds, facts)


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
    ) -> None:
        self._model, self._backend, self._options, self._progress = model, backend, options, progress
        self._graph = folder / typed_path(graph, precision, backend).name
        self._engine = folder / engine_path(graph, precision, backend).name
        self.target = "onnxruntime" if backend == "onnxruntime" else "tensorrt"
        self._plan: tuple[str, BuiltPlan] | None = None
        self.runs_engines = backend == "tensorrt" or (backend == "tensorrt-rtx" and bool(find_gpus()[0]))

    def make(self, table: "CalibrationTable") -> Path:
        """The engine that this table makes where it runs here, else its graph."""
        from calibration.qdq import quantise
        from export.graph import save_graph

        save_graph(quantise(self._model, table, self.target), self._graph)
        self._plan = None
        if not self.runs_engines:
            return self._graph
        built = build_plan(self._graph, self._backend, self._options, progress=self._progress)
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
