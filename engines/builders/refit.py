"""Plans of TensorRT that need something beside their bytes: stripped weights, or leave to run code of their own.

A plan built with its weights stripped holds only how they are used; the typed graph that it was built from fills
them in when the plan is loaded. The passport says so, and knows the graph by its digest. Only TensorRT (10, 11)
does this: the names here are checked against its bindings, and run on a machine with a GPU.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.builders.log import Log, library_logger, plain
from engines.errors import EngineMismatchError, InputError, RunError
from engines.files import digest_file
from engines.passport import Passport

_NAMED_AT_MOST = 4


def is_stripped(passport: Passport | None) -> bool:
    """Whether an engine's passport says that its plan has no weights."""
    return passport is not None and bool(passport.options.get("weights_stripped"))


def graph_for_refit(plan: Path, passport: Passport) -> Path:
    """The graph beside ``plan`` that it was built from, found by its digest, whatever it is called.

    Raises:
        EngineMismatchError: it isn't there.
    """
    wanted = passport.sources.get("typed_graph") or passport.sources.get("graph")
    for path in _graphs(plan):
        try:
            if wanted and digest_file(path) == wanted:
                return path
        except InputError:
            continue  # one that can't be read isn't the one
    raise EngineMismatchError(
        f"'{plan.name}' holds no weights (--weights-stripped), and the graph that has them isn't beside it",
        f"put the graph with the digest {wanted} beside it, or build again: {passport.command}",
    )


def _graphs(plan: Path) -> Iterator[Path]:
    """The graphs in the engine's folder, the one that is called like it first."""
    likely = plan.with_name(plan.name.removesuffix(".engine") + ".onnx")
    if likely.is_file():
        yield likely
    yield from (path for path in sorted(plan.parent.glob("*.onnx")) if path != likely)


def refit_datacentre(trt: ModuleType, engine: Any, graph: Path, logger: Any, log: Log) -> None:
    """Fill the weights of ``graph`` into an engine that was loaded without them.

    Args:
        trt: the library.
        engine: an ``ICudaEngine`` of a stripped plan; no context has been made of it yet.
        graph: the very graph that it was built from; external weights lie beside it.
        logger: the library's one logger.
        log: what it says meanwhile.

    Raises:
        RunError: the library refuses; weights that are missing are named.
    """
    refitter = trt.Refitter(engine, logger)
    parser_refitter = trt.OnnxParserRefitter(refitter, logger)
    filled = parser_refitter.refit_from_file(str(graph))
    if filled and refitter.refit_cuda_engine():
        return
    missing = list(refitter.get_missing_weights())
    reason = log.reason() or "it gave no reason"
    if missing:
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        reason = f"the weights {', '.join(missing[:_NAMED_AT_MOST])}{more} are missing"
    elif parser_refitter.num_errors:
        reason = plain(parser_refitter.get_error(0).desc())
    raise RunError(
        f"'{graph.name}' doesn't fill the weights of its stripped engine: {reason}",
        "build the engine without --weights-stripped",
    )


def refit_if_stripped_datacentre(
    trt: ModuleType, engine: Any, path: Path, passport: Passport | None, log: Log
) -> None:
    """Make a loaded engine whole where its passport says that its weights were stripped.

    Raises:
        EngineMismatchError: the graph that has them isn't beside the plan.
        RunError: the library refuses them.
    """
    if passport is not None and is_stripped(passport):
        refit_datacentre(trt, engine, graph_for_refit(path, passport), library_logger(trt), log)


def allow_host_code_datacentre(runtime: Any, options: Mapping[str, Any]) -> None:
    """Let a version-compatible plan be loaded: it brings the small runtime that newer releases run it with.

    That is code which runs on the host, so TensorRT wants leave for it. It gets it for plans that were asked to be
    like that; a plan without a passport doesn't.

    Args:
        runtime: a ``Runtime``.
        options: of the build, as ``BuildOptions.to_json`` writes them into a passport.
    """
    if options.get("version_compatible"):
        runtime.engine_host_code_allowed = True
