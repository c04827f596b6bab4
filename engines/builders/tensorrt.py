"""The builder: an ONNX file in, a plan out, over the API that TensorRT 10, 11 and TensorRT for RTX share.

The network is always strongly typed, so the graph's types are the precision and there is no precision flag.
The build runs in a thread of its own: the caller's thread stays in Python, where Ctrl-C reaches it.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.builders.audit import LayerReport
from engines.builders.flavours import (
    Flavour,
    builder_library,
    configure,
    flavour_of,
    save_timing_cache_datacentre,
)
from engines.builders.inspector import inspected_layers
from engines.builders.interruptible import run_interruptibly
from engines.builders.log import Log, details, library_logger, listening
from engines.builders.machine import built_on
from engines.builders.monitor import AUDITING, LONGEST, READING, Phases, progress_monitor
from engines.builders.network import heavy_nodes, parse_graph, tensor_specs
from engines.builders.options import BuildOptions
from engines.builders.profiles import fit_profiles, profiles_json
from engines.builders.refit import allow_host_code_datacentre
from engines.builders.rtx_plan import rtx_layers
from engines.errors import BuildError, EngineFormatError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.header import HEADER_SIZE, PlanHeader, parse_header
from engines.progress import QUIET, Progress
from engines.tensors import TensorSpec

_TRY = {
    "Turing": "compute capability 7.5 takes FP16 graphs only: build with --fp16, or leave 7.5 out",
    "HW-specific datatypes": "that GPU generation has no such type: leave it out of --compute-capability, or build"
    " with --fp16 or --int8",
    "workspace limit": "give more of --workspace, or leave it out",
    "Could not find any implementation": "give more of --workspace, or a smaller --batch",
    "out of memory": "free memory on the GPU, or give a smaller --batch or --workspace",
}
"""What a library's reason has in it → what to try."""


@dataclass(frozen=True)
class BuiltPlan:
    """A plan and the facts about it.

    Attributes:
        data: the plan's bytes, still the library's memory: write them and let go.
        backend: the key in the table of backends.
        versions: of the library, by its import name ("tensorrt_rtx": "1.7.1.116").
        header: what the plan says of itself.
        seconds: the build took, parsing included.
        layers: layer types as built; every convolution and matrix product of the graph is among them.
        inputs, outputs: the engine's tensors.
        profiles: as a passport holds them.
        phases: seconds by phase in plain words, in the order in which they began.
        log: the builder's whole log (:func:`engines.builders.log.write_log` puts it beside the engine).
        machine: the GPU, driver and CUDA that it was built with, as far as there are any (:func:`built_on`).
    """

    data: memoryview
    backend: str
    versions: Mapping[str, str]
    header: PlanHeader
    seconds: float
    layers: LayerReport
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[dict[str, Any], ...]
    phases: Mapping[str, float]
    log: str
    machine: Mapping[str, str]


def build_plan(
    graph_path: Path, backend: str, options: BuildOptions | None = None, *, progress: Progress = QUIET
) -> BuiltPlan:
    """Build a plan from an ONNX file; its types decide the precision.

    Check the file with ``onnx.checker`` first: the parser takes some damaged graphs without a word.

    Args:
        graph_path: the typed graph; external weights lie beside it.
        backend: "tensorrt" or "tensorrt-rtx".
        options: profiles, workspace and the like; None for the defaults.
        progress: told of per cents and phases while the library builds.

    Raises:
        MissingLibraryError: the library isn't installed.
        UnsupportedError: the library, this machine or the target can't do what is asked.
        InputError: the file can't be read, or profiles don't fit the graph.
        GraphError: the file isn't a whole ONNX graph.
        BuildError: the library failed; it has the library's log. :class:`NodeError` names a node and operator.
        KeyboardInterrupt: Ctrl-C was pressed; nothing is left running.
    """
    path = Path(graph_path)
    options = options or BuildOptions()
    flavour = flavour_of(backend)
    trt = builder_library(backend, options)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from error
    cancel = threading.Event()
    progress.begin(f"building with {flavour.title}", 100, "%")
    try:
        with listening(trt) as log:
            phases = Phases(progress, cancel, LONGEST[backend])
            build = _Build(trt, flavour, path, options, phases, log)
            try:
                return run_interruptibly(build.run, cancel, phases.beat)
            except BuildError as error:
                error.log = build.heading() + log.text()
                raise
    finally:
        progress.end()


@dataclass(frozen=True)
class _Build:
    """One build, run in a thread."""

    trt: ModuleType
    flavour: Flavour
    path: Path
    options: BuildOptions
    phases: Phases
    log: Log

    def run(self) -> BuiltPlan:
        started = time.perf_counter()
        trt, flavour, options, log = self.trt, self.flavour, self.options, self.log
        logger = library_logger(trt)
        self.phases.enter(READING)
        builder = _builder(trt, logger, flavour, log)
        network = parse_graph(trt, builder, logger, self.path, log)
        inputs, outputs = tensor_specs(network)
        fitted = fit_profiles(options.profiles, inputs)
        self.phases.profiles = len(fitted)
        config = builder.create_builder_config()
        monitor = progress_monitor(trt, self.phases)
        config.progress_monitor = monitor
        configure(trt, config, options, flavour.backend)
        for shapes in fitted:
            profile = builder.create_optimization_profile()
            for name, (smallest, usual, largest) in shapes.items():
                profile.set_shape(name, smallest, usual, largest)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(f"the profile {shapes} was refused: {log.reason()}", "choose other sizes: --batch")
        nodes = heavy_nodes(trt, network)
        plan = builder.build_serialized_network(network, config)
        if self.phases.failure is not None:
            raise self.phases.failure
        if plan is None:
            raise _failed(flavour, self.path, log)
        if flavour.backend == "tensorrt":
            save_timing_cache_datacentre(config, options)
        data = memoryview(plan).cast("B")
        self.phases.enter(AUDITING)
        layers = _layers(trt, logger, flavour, options, data, log).covering(nodes)
        took = self.phases.complete()
        if self.phases.failure is not None:
            raise self.phases.failure
        return BuiltPlan(
            data=data,
            backend=flavour.backend,
            versions={flavour.module: str(trt.__version__)},
            header=parse_header(bytes(data[:HEADER_SIZE]), data.nbytes),
            seconds=time.perf_counter() - started,
            layers=layers,
            inputs=inputs,
            outputs=outputs,
            profiles=profiles_json(fitted),
            phases=took,
            log=self.heading(took) + log.text(),
            machine=built_on(flavour.backend),
        )

    def heading(self, took: Mapping[str, float] | None = None) -> str:
        """The first lines of a log: what was built with what, and how long each phase took."""
        lines = [
            f"{self.path.name}, built with {self.flavour.title} {self.trt.__version__}",
            f"options: {json.dumps(self.options.to_json())}",
            *(f"{seconds:10.3f} s {name}" for name, seconds in (took or {}).items()),
        ]
        return "\n".join(lines) + "\n\n"


def _builder(trt: ModuleType, logger: Any, flavour: Flavour, log: Log) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        remedy = "run `toolkit doctor` to see what is missing"
        if flavour.backend == "tensorrt":
            remedy += "; without a GPU build with --backend tensorrt-rtx"
        failed = UnsupportedError(f"{flavour.title} can't build on this machine: {log.reason() or error}", remedy)
        failed.add_note(details(log.tail()))
        raise failed from error


def _failed(flavour: Flavour, path: Path, log: Log) -> ToolkitError:
    reason = log.reason() or "it gave no reason"
    error = BuildError(f"{flavour.title} couldn't build '{path.name}': {reason}", _remedy(reason))
    error.reason = reason
    error.add_note(details(log.tail()))
    return error


def _remedy(reason: str) -> str:
    for words, remedy in _TRY.items():
        if words in reason:
            return remedy
    return "change the network or the options; the builder's log tells more"


def _layers(
    trt: ModuleType, logger: Any, flavour: Flavour, options: BuildOptions, data: memoryview, log: Log
) -> LayerReport:
    if flavour.backend == "tensorrt-rtx":
        return rtx_layers(data)
    runtime = trt.Runtime(logger)
    allow_host_code_datacentre(runtime, options.to_json())
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineFormatError(
            f"the built engine can't be loaded to read its layers: {log.reason()}",
            "free device memory and build again",
        )
    inspector = engine.create_engine_inspector()
    return inspected_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
