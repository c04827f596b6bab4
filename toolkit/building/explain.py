"""Builds and audits whose failures name the PyTorch module and what to try, and whose log is kept when they fail."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engines.builders.audit import LayerReport, audit
from engines.builders.log import write_log
from engines.builders.tensorrt import BuiltPlan, build_plan
from engines.errors import AuditError, BuildError, NodeError, ToolkitError
from engines.progress import QUIET, Progress

if TYPE_CHECKING:
    import onnx

    from engines.builders.options import BuildOptions
    from toolkit.building.typed_graph import TypedGraph

_RETYPE = "give the master graph: `toolkit build-engine` types and quantises it in a way that TensorRT takes"
_UNKNOWN = "write that part of the network with standard operators, or run the graph with --backend onnxruntime"
_REMEDIES: tuple[tuple[str, str], ...] = (
    # What a TensorRT library's reason has in it (a regular expression), what to try.
    (r"zero point|UInt8|Int32 but must have|Int16", _RETYPE),
    (r"is (?:Float|Half|BFloat16).* is (?:of type )?(?:Float|Half|BFloat16)|must have the same type", _RETYPE),
    (r"[Pp]lugin", "TensorRT doesn't know the operator '{operator}': " + _UNKNOWN),
    (r"no rule for it", "TensorRT can't do '{operator}', or not as it is used there: " + _UNKNOWN),
    (
        r"dimension|shape|rank|symbolic execution|broadcast",
        "check the sizes there: export with the input size that the network was made for, and a batch that varies",
    ),
)
_OTHERWISE = "change the network there, or run the graph with --backend onnxruntime"


def build_explained(
    graph: Path,
    model: "Callable[[], onnx.ModelProto]",
    backend: str,
    options: "BuildOptions",
    *,
    engine: Path | None = None,
    progress: Progress = QUIET,
) -> BuiltPlan:
    """:func:`engines.builders.tensorrt.build_plan`, with errors that a person can act on.

    Args:
        graph: the typed graph's file.
        model: gives its content, which knows the PyTorch modules; called only when the build fails.
        backend: "tensorrt" or "tensorrt-rtx".
        options: of the build.
        engine: where the engine will be: the log of a failed build is written beside it, and the error says so.
        progress: told of phases.

    Raises:
        NodeError: the library fails on a node; it is named with its operator and PyTorch module.
        ToolkitError: as :func:`build_plan` says.
    """
    try:
        return build_plan(graph, backend, options, progress=progress)
    except BuildError as error:
        told = explained(error, model(), graph.name)
        if engine is not None and error.log:
            told.remedy = _naming_log(told.remedy, engine, error.log)
        if told is error:
            raise
        raise told from error


def proven(
    layers: LayerReport, typed: "TypedGraph", options: "BuildOptions", *, engine: Path | None = None, log: str = ""
) -> tuple[str, ...]:
    """Audit an engine's layers against what was asked for, with PyTorch modules in the words of a failure.

    Args:
        layers: as built, or as stored with an engine that was built before.
        typed: the graph that it was built from.
        options: of the build; they say whether a partial engine is allowed.
        engine: where the engine will be: a failed audit leaves the build's log beside it.
        log: that log.

    Returns:
        The layers of another precision that ``--allow-partial`` lets pass, in words.

    Raises:
        AuditError: the engine isn't of the precision that was asked for.
    """
    try:
        return audit(
            layers,
            typed.precision,
            keep=typed.keep,
            modules=lambda: modules_of(typed.model),
            allow_partial=options.allow_partial,
        )
    except AuditError as error:
        if engine is not None and log:
            error.remedy = _naming_log(error.remedy, engine, log)
        raise


def explained(error: BuildError, model: "onnx.ModelProto", graph: str) -> BuildError:
    """A library's failure with the node's operator, its PyTorch module and what to try, where they can be told.

    Args:
        error: of a build.
        model: the graph that was built.
        graph: its file name.
    """
    from export.structure import label

    node = _node_of(error, model)
    if node is None:
        return error
    reason = error.reason
    remedy = _remedy(reason, node.op_type) if isinstance(error, NodeError) else error.remedy
    module = _module_at(node, model) or ""
    told = NodeError.at(label(node), node.op_type, graph=graph, reason=reason, module=module, remedy=remedy)
    told.log = error.log
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told


def modules_of(model: "onnx.ModelProto") -> dict[str, str]:
    """ONNX node name → the path of the PyTorch module that it comes from, where that is known."""
    from export.graph import module_of

    return {node.name: module for node in model.graph.node if (module := module_of(node)) is not None}


def _naming_log(remedy: str, engine: Path, log: str) -> str:
    """The remedy with the place of the log of a failed build, which is written there."""
    try:
        path = write_log(engine, log, failed=True)
    except ToolkitError:  # an unwritable folder would be told when the engine is written; here it isn't the news
        return remedy
    return f"{remedy}; the builder's log is in '{path}'"


def _remedy(reason: str, operator: str) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, reason):
            return remedy.format(operator=operator)
    return _OTHERWISE


def _node_of(error: BuildError, model: "onnx.ModelProto") -> "onnx.NodeProto | None":
    """The node that an error is about: the parser's own, else the one whose name its reason quotes."""
    nodes = model.graph.node
    if isinstance(error, NodeError):
        if numbered := re.fullmatch(r"number (\d+)", error.node):
            index = int(numbered[1])
            return nodes[index] if index < len(nodes) else None
        return next((node for node in nodes if node.name == error.node), None)
    quoted = set(re.findall(r"'([^']+)'|\[ONNX Layer: ([^\]]+)\]", error.reason))
    names = {name for pair in quoted for name in pair if name}
    return next((node for node in nodes if node.name in names), None)


def _module_at(node: "onnx.NodeProto", model: "onnx.ModelProto") -> str | None:
    """A node's PyTorch module; for a node that typing added (a cast, a Q/DQ pair) that of what it feeds."""
    from export.graph import module_of

    for found in _downstream(node, model):
        if (module := module_of(found)) is not None:
            return module
    return None


def _downstream(node: "onnx.NodeProto", model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    """The node, and while each only changes types, those that it feeds."""
    from export.structure import consumers

    users = consumers(model.graph)
    waiting = [node]
    while waiting:
        current = waiting.pop(0)
        yield current
        if current.op_type in {"Cast", "QuantizeLinear", "DequantizeLinear"}:
            waiting += [user for name in current.output for user in users.get(name, [])]
