"""Nodes and tensors are called like the PyTorch modules that they come from.

1. A module that became one node gives it its path: ``features.0``. A module that became several gives
   ``path.operator``; what no submodule made is called like its operator: ``reshape``. A number tells apart
   what would have the same name.
2. The node's result is called like the node, further results have a number; graph inputs and outputs keep
   their names.
3. A constant without a module's name (``val_6``) is called after its first user and the operator's name
   for that input: ``flatten.shape``.
4. The path itself is kept in the node's property :data:`MODULE_KEY`, so that errors and tables can name it.
"""

import ast
from collections import Counter

from export.onnxlib import onnx
from export.structure import unique

MODULE_KEY = "toolkit.module"
"""The node property that holds the path of the PyTorch module ("classifier.1")."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(graph: onnx.GraphProto, parameters: frozenset[str], opset: int) -> bool:
    """Apply the rules above.

    Args:
        graph: as PyTorch's exporter made it, with its node properties.
        parameters: names of the module's parameters and buffers, which stay.
        opset: of the graph, for rule 3.

    Returns:
        Whether the graph changed.
    """
    paths = [_module(node) for node in graph.node]
    if not any(path is not None for path in paths):
        return False
    fixed = {value.name for value in (*graph.input, *graph.output)} | parameters
    taken, node_names = set(fixed), set[str]()
    count = Counter(path for path in paths if path)
    renamed = dict[str, str]()
    for node, path in zip(graph.node, paths, strict=True):
        operator = node.op_type.lower()
        node.name = unique(
            path if path and count[path] == 1 else f"{path}.{operator}" if path else operator, node_names
        )
        for position, name in enumerate(node.output):
            if name and name not in fixed:
                renamed[name] = unique(node.name if position == 0 else f"{node.name}.{position}", taken)
        if path:
            node.metadata_props.add(key=MODULE_KEY, value=path)
    constants = {tensor.name for tensor in graph.initializer} - fixed
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in constants and name not in renamed:
                renamed[name] = unique(f"{node.name}.{_role(node, position, opset)}", taken)
    for node in graph.node:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                tensors[position] = renamed.get(name, name)
    for named in (*graph.initializer, *graph.value_info):
        named.name = renamed.get(named.name, named.name)
    return True


def module_of(node: onnx.NodeProto) -> str | None:
    """The path of the PyTorch module that a node comes from; None where it isn't known."""
    return next((item.value for item in node.metadata_props if item.key == MODULE_KEY), None)


def _module(node: onnx.NodeProto) -> str | None:
    """The innermost module's path in the exporter's notes: "" for the root, None without notes."""
    text = next((item.value for item in node.metadata_props if item.key == _SCOPES), None)
    try:
        scopes = None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(scopes, list) or len(scopes) < 2:
        return None
    return str(scopes[-2])


def _role(node: onnx.NodeProto, position: int, opset: int) -> str:
    if node.domain in {"", "ai.onnx"} and onnx.defs.has(node.op_type, ""):
        formal = onnx.defs.get_schema(node.op_type, opset, "").inputs
        return str(formal[min(position, len(formal) - 1)].name).lower()
    return str(position)
