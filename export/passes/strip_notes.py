"""What an exporter notes about the machine and the code disappears: stack traces, paths, graph dumps.

1. Node properties go, except those whose key begins with ``toolkit.``; so do doc strings.
2. Properties and doc strings of inputs, outputs, values, constants and of the graph go.
3. Inferred value types go: tools infer them again, and stale ones mislead.
"""

from export.onnxlib import onnx


def strip_notes(graph: onnx.GraphProto) -> bool:
    """Apply the rules above.

    Returns:
        Whether the graph changed.
    """
    before = len(graph.value_info)
    modified = before > 0
    del graph.value_info[:]
    for holder in (graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
        kept = [item for item in holder.metadata_props if item.key.startswith("toolkit.")]
        if holder.doc_string or len(kept) != len(holder.metadata_props):
            copies = [(item.key, item.value) for item in kept]
            del holder.metadata_props[:]
            for key, value in copies:
                holder.metadata_props.add(key=key, value=value)
            holder.doc_string = ""
            modified = True
    return modified
