"""Read an ONNX file of any exporter: whole, valid, with its weights and functions inside, or refused with the reason.

1. External weights are read; they must lie in the graph's folder. Sparse weights become dense ones.
2. Functions of the model itself are written out in place of their calls.
3. What training left behind (``training_info``) goes; so do constants from among the inputs, where old exporters
   list them.
4. The graph must pass ``onnx.checker``.
"""

from pathlib import Path

import numpy as np

from engines.errors import GraphError
from engines.files import unreadable
from engines.optional import require
from export.foreign.edit import PLAIN
from export.graph import INLINE_LIMIT, load_external, weight_bytes
from export.onnxlib import onnx
from export.structure import light_copy

_AGAIN = "get the file again, or export the model again"

_OTHERS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"version https://git-lfs", 0, "a pointer of Git LFS, without the model", "fetch the model: git lfs pull"),
    (b"PK\x03\x04", 0, "a zip archive", "unpack it; a PyTorch archive goes to `toolkit export`"),
    (b"\x1f\x8b", 0, "compressed with gzip", "unpack it: gunzip"),
    (b"ORTM", 4, "a model in ONNX Runtime's own format", "give the .onnx that it was converted from"),
    (b"<!DOCTYPE", 0, "a web page", "download the file itself"),
    (b"<html", 0, "a web page", "download the file itself"),
    (
        b"ir_version",
        0,
        "ONNX written as text",
        "convert it: onnx.save(onnx.load(FILE, format='textproto'), 'net.onnx')",
    ),
    (
        b"<",
        0,
        "ONNX written as text",
        "convert it: onnx.save(onnx.parser.parse_model(open(FILE).read()), 'net.onnx')",
    ),
    (b"{", 0, "JSON", "convert it: onnx.save(onnx.load(FILE, format='json'), 'net.onnx')"),
    (b"\x80\x02", 0, "a pickle", "a PyTorch checkpoint goes to `toolkit export`"),
)
"""What isn't ONNX by its first bytes: those, where they stand, what it is, what to do."""


def read_foreign(path: Path | str, changes: list[str]) -> onnx.ModelProto:
    """Read a file by the rules above.

    Args:
        path: the file.
        changes: gets a line for each thing that was changed.

    Raises:
        InputError: it can't be read.
        GraphError: it isn't ONNX, is damaged or invalid, or a file of weights is missing or too short.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if not data:
        raise GraphError(f"'{path}' is empty", _AGAIN)
    for start, at, what, remedy in _OTHERS:
        if data[at : at + len(start)] == start:
            raise GraphError(f"'{path}' is {what}", remedy)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf implementations raise different classes
        raise GraphError(f"'{path}' is damaged, or not an ONNX file: {error}", _AGAIN) from error
    del data
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise GraphError(f"'{path}' is not an ONNX model, or was cut short", _AGAIN)
    if not model.graph.node or not model.graph.output:
        raise GraphError(f"'{path}' has no nodes or no outputs", _AGAIN)
    load_external(model, path)
    _plain_domains(model)
    _check(model, path)
    if model.training_info:
        changes.append(f"training: {len(model.training_info)} training graphs left out")
        del model.training_info[:]
    _densify(model.graph, changes)
    _inline(model, path, changes)
    _constants_are_no_inputs(model.graph, changes)
    model.ir_version = max(model.ir_version, 4)  # the first whose constants needn't be inputs
    return model


def _plain_domains(model: onnx.ModelProto) -> None:
    """The standard domain is written as nothing."""
    for entry in model.opset_import:
        if entry.domain in PLAIN:
            entry.domain = ""
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        if node.domain in PLAIN:
            node.domain = ""


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        if weight_bytes(model) < INLINE_LIMIT:
            onnx.checker.check_model(model)
        else:
            onnx.checker.check_model(str(path))
    except Exception as error:  # ValidationError, and what broken text or types in the file raise
        reason = str(error).split("==> Context:")[0]
        raise GraphError(f"'{path}' is not a valid ONNX graph: {reason}", _AGAIN) from error


def _densify(graph: onnx.GraphProto, changes: list[str]) -> None:
    for sparse in graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        dense[np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense, sparse.values.name))
    if graph.sparse_initializer:
        changes.append(f"weights: {len(graph.sparse_initializer)} sparse ones made dense")
        del graph.sparse_initializer[:]


def _inline(model: onnx.ModelProto, path: Path, changes: list[str]) -> None:
    """Write functions out; the large weights stay where they are."""
    if not model.functions:
        return
    own = {(function.domain, function.name) for function in model.functions}
    calls = sum((node.domain, node.op_type) in own for node in model.graph.node)
    try:
        inliner = require("onnx.inliner", "Importing a graph", "onnxruntime")
        inlined = inliner.inline_local_functions(light_copy(model), convert_version=True)
    except Exception as error:  # C++ says what it likes
        raise GraphError(
            f"the functions of '{path}' can't be written out: {error}", "export it without functions"
        ) from error
    known = {tensor.name for tensor in model.graph.initializer}
    del model.graph.node[:], model.functions[:], model.opset_import[:]
    model.graph.node.extend(inlined.graph.node)
    model.graph.initializer.extend(item for item in inlined.graph.initializer if item.name not in known)
    model.opset_import.extend(inlined.opset_import)
    _plain_domains(model)
    changes.append(f"functions: {calls} calls written out")


def _constants_are_no_inputs(graph: onnx.GraphProto, changes: list[str]) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    listed = [index for index, value in enumerate(graph.input) if value.name in constants]
    for index in reversed(listed):
        del graph.input[index]
    if listed:
        changes.append(f"inputs: {len(listed)} weights no longer listed among them")
