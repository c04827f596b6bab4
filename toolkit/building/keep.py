"""Layers that the user keeps unquantised, by the name of an ONNX node or of a PyTorch module."""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from calibration.ranges import Ranges
from engines.errors import InputError
from export.graph import module_of
from export.structure import label

if TYPE_CHECKING:
    import onnx

    from calibration.table import CalibrationTable


def kept_nodes(model: "onnx.ModelProto", names: Iterable[str]) -> tuple[str, ...]:
    """The quantisable nodes behind ``names``, in graph order.

    Args:
        model: the FP32 master graph.
        names: of ONNX nodes, or of PyTorch modules; a module stands for all that it contains.

    Raises:
        InputError: there is no such layer; the nearest names are told.
    """
    ranges = Ranges(model)
    layers = {
        label(node): module_of(node)
        for node in ranges.nodes
        if ranges.is_weighted(node) or ranges.is_product(node) or ranges.is_joining(node) or ranges.is_averaging(node)
    }
    found: set[str] = set()
    for name in names:
        inside = {
            node for node, module in layers.items() if module is not None and f"{module}.".startswith(f"{name}.")
        }
        if name in layers:
            inside.add(name)
        if not inside:
            raise _unknown(name, layers, {label(node) for node in ranges.nodes})
        found |= inside
    return tuple(name for name in layers if name in found)


def with_kept(model: "onnx.ModelProto", table: "CalibrationTable", names: Iterable[str] = ()) -> "CalibrationTable":
    """A table that keeps ``names`` too, in graph order; one that was edited by hand may name modules.

    Raises:
        InputError: there is no such layer.
    """
    nodes = [label(node) for node in model.graph.node]
    exact = set(table.keep) & set(nodes)
    keep = exact.union(
        kept_nodes(model, [name for name in table.keep if name not in exact]), kept_nodes(model, names)
    )
    return replace(table, keep=tuple(name for name in nodes if name in keep))


def _unknown(name: str, layers: dict[str, str | None], nodes: set[str]) -> InputError:
    known = [*layers, *(module for module in layers.values() if module)]
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3)
    listed = ", ".join(list(layers)[:8]) + (", …" if len(layers) > 8 else "")
    remedy = f"did you mean {' or '.join(repr(item) for item in near)}?" if near else f"layers are {listed}"
    if name in nodes:
        return InputError(f"'{name}' is not a layer that is quantised, so it can't be kept from that", remedy)
    return InputError(f"no layer is called '{name}'", remedy)
