"""The typed graph that an engine is built from: given, or derived from the master graph."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.errors import GraphError, InputError, TableError
from engines.files import digest_file
from export.graph import (
    layer_types,
    read_derived,
    read_metadata,
    weights_digest,
    write_derived,
)
from export.light import NO_ARRAYS, Arrays, SplitGraph, load_light, save_light
from export.precision import to_half
from toolkit.building.choose import QUANTISED, typed_path
from toolkit.building.typed_graph import TypedGraph
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable

HALVES: dict[str, Literal["fp16", "bf16"]] = {"fp16": "fp16", "bf16": "bf16"}
QUANTISED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def is_typed(model: "onnx.ModelProto") -> bool:
    """Whether a graph has a precision already: derived by this toolkit, or with Q/DQ nodes of another tool."""
    return read_derived(model) is not None or any(node.op_type in QUANTISED_OPS for node in model.graph.node)


def quantised_to(model: "onnx.ModelProto") -> str:
    """The precision of a graph with Q/DQ nodes by the type that they store: "fp8", or "int8" where that occurs."""
    stored = {layer.type for layer in layer_types(model)}.intersection(QUANTISED)
    return "fp8" if stored == {"fp8"} else "int8"


def given_graph(
    path: Path, model: "onnx.ModelProto", precision: str, backend: str, digest: Callable[[Path], str] = digest_file
) -> TypedGraph:
    """A graph that is typed already, as it is; ``digest`` digests files.

    Raises:
        GraphError: its precision or Q/DQ placement isn't the one asked for.
    """
    derived = read_derived(model)
    found = derived.precision if derived else quantised_to(model)
    if found != precision:
        raise GraphError(f"'{path}' is {found} already, not {precision}", f"give the master graph, or --{found}")
    target = "onnxruntime" if backend == "onnxruntime" else "tensorrt"
    if derived and derived.placement not in {None, target}:
        raise GraphError(
            f"the Q/DQ nodes of '{path}' are placed for {derived.placement}, not for {target}",
            "give the master graph: its calibration table serves every target",
        )
    weights = derived.weights if derived else weights_digest(model)
    sources = {"typed_graph": digest(path), "weights": weights}
    if derived and derived.table:
        sources["table"] = derived.table
    keep = frozenset(derived.kept) if derived else frozenset[str]()
    return TypedGraph(path, precision, weights, sources, read_metadata(model), keep, SplitGraph(model))


def derive(
    path: Path,
    model: "onnx.ModelProto",
    precision: str,
    backend: str,
    *,
    table: "CalibrationTable | None" = None,
    weights: str | None = None,
    arrays: Arrays = NO_ARRAYS,
    force: bool = False,
    digest: Callable[[Path], str] = digest_file,
    remember: Callable[[Path, str], object] = lambda path, digest: None,
) -> TypedGraph:
    """Make and write the typed graph of a master graph; the FP32 one is the master itself.

    Args:
        path: the master graph's file.
        model: its content.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        backend: whose Q/DQ placement a quantised graph gets.
        table: the ranges for INT8 or FP8.
        weights: the digest of the model's weights, where it is known.
        arrays: the values of the model's stubs (:mod:`export.light`); only a graph to be quantised may have any.
        force: replace a file that was made from something else.
        digest: digests files.
        remember: told of a file that was written, and its digest.

    Raises:
        InputError: the output exists and was made from something else, or can't be written.
        TableError: the table is missing, or was made from other weights or preprocessing, or for another precision.
        GraphError: the graph can't have this precision.
        UnsupportedError: the backend can't.
    """
    known = weights
    # A table that quantise() takes was made from these very weights.
    weights = table.weights if table is not None else known or weights_digest(model)
    sources = {"graph": digest(path), "weights": weights}
    metadata = read_metadata(model)
    if metadata is not None:
        if metadata.preprocess_digest is not None:
            sources["preprocess"] = metadata.preprocess_digest
        if "checkpoint" in metadata.origin:
            sources["checkpoint"] = metadata.origin["checkpoint"]
    if precision == "fp32":
        return TypedGraph(path, precision, weights, sources, metadata, loaded=SplitGraph(model))
    if precision in QUANTISED:
        from calibration.qdq import quantise_light

        if table is None:
            raise InputError(
                f"{precision.upper()} needs the ranges of a calibration",
                "give --data, or run `toolkit calibrate` first",
            )
        if table.precision != precision:
            raise TableError(
                f"the table's ranges were chosen for {table.precision.upper()}, not for {precision.upper()}",
                f"calibrate for {precision.upper()}, or build with --{table.precision}",
            )
        typed = quantise_light(
            model,
            table,
            "onnxruntime" if backend == "onnxruntime" else "tensorrt",
            weights=known,
            arrays=arrays,
        )
        sources["table"] = table.digest()
        if table.data:
            sources["data"] = table.data
    else:
        typed = SplitGraph(to_half(model, HALVES[precision]))
    keep = _wider(typed.model, precision)
    if keep and (derived := read_derived(typed.model)):
        write_derived(typed.model, replace(derived, kept=tuple(sorted(keep))))
    output = typed_path(path, precision, backend)
    check_replace(output, weights, derived_from, force=force)
    sources["typed_graph"] = save_light(typed, output)
    remember(output, sources["typed_graph"])
    return TypedGraph(output, precision, weights, sources, metadata, keep, typed)


def derived_from(path: Path) -> str | None:
    """The digest of the weights that an existing typed graph was derived from."""
    derived = read_derived(load_light(path).model)
    return derived.weights if derived else None


def _wider(model: "onnx.ModelProto", precision: str) -> frozenset[str]:
    """The convolutions and matrix products that a derived graph keeps in another type than asked for."""
    return frozenset(layer.name for layer in layer_types(model) if layer.type != precision)
