"""A graph in a newer opset.

1. A graph that already has the opset, or a newer one, stays as it is.
2. Nodes are converted by onnx's own converter, on a copy without the weights, so that it costs nothing
   in memory and large graphs convert too.
3. What that converter forgets is put back: node metadata, the model's properties.
4. A graph that the converter can't convert is an error that names the reason.
"""

from engines.errors import GraphError
from export.onnxlib import onnx
from export.structure import light_copy


def lift_opset(model: onnx.ModelProto, opset: int) -> bool:
    """Apply the rules above to ``model``.

    Returns:
        Whether the graph changed.

    Raises:
        GraphError: an operator has no conversion.
    """
    entry = next((item for item in model.opset_import if item.domain in {"", "ai.onnx"}), None)
    if entry is None or entry.version >= opset:
        return False
    small = light_copy(model)
    try:
        lifted = onnx.version_converter.convert_version(small, opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise GraphError(
            f"the graph can't be lifted from opset {entry.version} to {opset}: {error}",
            f"export the model again with --opset {opset}",
        ) from error
    notes = {node.output[0]: node.metadata_props for node in small.graph.node if node.output}
    for node in lifted.graph.node:
        if node.output and not node.metadata_props and node.output[0] in notes:
            node.metadata_props.extend(notes[node.output[0]])
    del model.graph.node[:]
    model.graph.node.extend(lifted.graph.node)
    known = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(tensor for tensor in lifted.graph.initializer if tensor.name not in known)
    entry.version = opset
    return True
