"""An engine's typed graph with its tensors marked as outputs, built again as the engine was.

An engine tells nothing of its inner tensors. The typed graph that it was built from does: it lies beside the engine
and is found by the digest in the passport. With marks it is built by the same library with the passport's options,
and its layers are read back as those of any engine are.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from engines.builders.audit import audit
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import BuiltPlan, build_plan
from engines.errors import AuditError, EngineFormatError, EngineMismatchError, InputError
from engines.passport import Passport
from engines.progress import QUIET, Progress
from engines.store import open_store

Note = Callable[[str], None]
"""Told of what the user should know."""

_REBUILT = ("tf32", "workspace", "optimization_level", "version_compatible", "hardware_compatibility")
"""Options that a marked engine is built with as they are written in the passport.

Not: a file of timings, stripped weights, leave for a partial engine, which change no result.
"""


def typed_graph(engine: Path, passport: Passport) -> Path:
    """The graph beside an engine that it was built from, found by its digest, whatever it is called.

    Raises:
        EngineMismatchError: it isn't there.
    """
    wanted = passport.sources.get("typed_graph") or passport.sources.get("graph")
    store = open_store()
    likely = engine.with_suffix(".onnx")
    for path in sorted(engine.parent.glob("*.onnx"), key=lambda path: (path != likely, path)):
        with contextlib.suppress(InputError):  # one that can't be read isn't the one
            if wanted and store.digest(path) == wanted:
                return path
    raise EngineMismatchError(
        f"the typed graph that '{engine.name}' was built from isn't beside it",
        f"put the graph with the digest {wanted} beside it, or build again: {passport.command}",
    )


def build_marked(graph: Path, passport: Passport, *, progress: Progress = QUIET, on_note: Note) -> BuiltPlan:
    """Build a graph with marked tensors as the passport's engine was built, and read its layers back.

    Args:
        graph: made of the engine's typed graph.
        passport: the engine's.
        progress: told of the build.
        on_note: told of layers that have another precision than the passport's; marking may cost a fusion.

    Raises:
        ToolkitError: as :func:`engines.builders.tensorrt.build_plan` says.
    """
    built = build_plan(graph, passport.backend, rebuild_options(passport), progress=progress)
    try:
        partial = audit(built.layers, passport.precision, keep=_kept(graph), allow_partial=True)
    except AuditError as error:
        on_note(f"with its tensors marked the engine is another one: {error.cause}")
    else:
        if partial and not passport.partial:
            on_note(f"with its tensors marked the engine is another one: {', '.join(partial)}")
    return built


def rebuild_options(passport: Passport) -> BuildOptions:
    """The options of an engine's build, those that change what it computes or takes.

    Raises:
        EngineFormatError: they aren't what a build writes.
    """
    written = passport.options
    try:
        return BuildOptions(
            profiles=parse_profiles(map(str, written.get("profiles", ()))),
            compute_capabilities=tuple(map(str, written.get("compute_capabilities", ()))),
            **{name: written[name] for name in _REBUILT if name in written},
        )
    except (TypeError, ValueError, InputError) as error:
        raise EngineFormatError(
            f"the options in the passport of '{passport.engine}' can't be read: {error}",
            f"build the engine again: {passport.command}",
        ) from error


def _kept(graph: Path) -> frozenset[str]:
    """The nodes of a graph made for a bisection that are wider on purpose: each layer is in it twice."""
    from calibration.bisection.probe import OWN, RUN, WIDE
    from export.graph import read_derived
    from export.onnxlib import onnx

    model = onnx.load(str(graph), load_external_data=False)
    derived = read_derived(model)
    wide = {node.name for node in model.graph.node if node.name.startswith(WIDE)}
    return frozenset(f"{way.name}/{name}" for way in (RUN, OWN) for name in (derived.kept if derived else ())) | wide
