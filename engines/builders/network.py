"""An ONNX graph parsed into a TensorRT network, and what the network tells of itself."""

from pathlib import Path
from types import ModuleType
from typing import Any

from engines.builders.audit import Kind, onnx_nodes
from engines.builders.log import Log, details, plain
from engines.builders.profiles import BATCH
from engines.errors import BuildError, GraphError, NodeError, ToolkitError
from engines.plan_dtypes import PLAN_DTYPES, UNFED_DTYPES
from engines.tensors import TensorSpec


def parse_graph(trt: ModuleType, builder: Any, logger: Any, path: Path, log: Log) -> Any:
    """Parse the ONNX file at ``path`` into a strongly typed network, external weights included.

    Raises:
        GraphError: the file isn't a whole ONNX graph, or lacks its external weights.
        BuildError: a node is one that the library can't do; node, operator and reason are named.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    if not parsed:
        error = _parser_error(parser, path, log)
        error.add_note(details(log.tail()))
        raise error
    if network.num_outputs == 0:
        raise GraphError(f"'{path}' has no outputs", "it is empty or not an ONNX graph: export the model again")
    return network


def _parser_error(parser: Any, path: Path, log: Log) -> ToolkitError:
    if missing := log.missing_file():
        return GraphError(
            f"'{path}' keeps its weights in '{Path(missing).name}', which is missing",
            "put the file beside the graph, or export the model again",
        )
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if error.node_operator():
            name = error.node_name() or f"number {error.node()}"
            return NodeError.at(
                name,
                error.node_operator(),
                graph=path.name,
                reason=said(error.desc()),
                remedy="change the network there, or run the graph with --backend onnxruntime",
            )
        if "ParseFrom" in error.desc():
            return GraphError(
                f"'{path}' is not a whole ONNX graph: it is truncated or something else", "export the model again"
            )
    reason = plain(parser.get_error(0).desc()) if parser.num_errors else log.reason()
    return BuildError(f"'{path}' can't be parsed: {reason}", "check it with onnx.checker, or export the model again")


def said(desc: str) -> str:
    """A parser's error in words; where it can't do an operator at all, its ``desc`` may be just "false"."""
    told = plain(desc)
    return "the library has no rule for it" if told in {"", "false"} else told


def tensor_specs(network: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The network's inputs and outputs; a dynamic dimension has its ONNX name, or "batch" when it is the first."""
    inputs = tuple(_spec(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_spec(network.get_output(index)) for index in range(network.num_outputs))
    return inputs, outputs


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(
        int(size) if size >= 0 else tensor.get_dimension_name(axis) or (f"{tensor.name}.{axis}" if axis else BATCH)
        for axis, size in enumerate(tuple(tensor.shape))
    )
    kind = str(tensor.dtype).rpartition(".")[2]
    return TensorSpec(str(tensor.name), (PLAN_DTYPES | UNFED_DTYPES).get(kind, kind.lower()), shape)


def heavy_nodes(trt: ModuleType, network: Any) -> dict[str, Kind]:
    """The graph's convolutions and matrix products by ONNX node name, as the parser understood them.

    Those of constants only are left out: the builder computes them once and for all.
    """
    kinds: dict[Any, Kind] = {
        trt.LayerType.CONVOLUTION: "conv",
        trt.LayerType.DECONVOLUTION: "conv",
        trt.LayerType.MATRIX_MULTIPLY: "matmul",
        trt.LayerType.EINSUM: "matmul",
    }
    nodes: dict[str, Kind] = {}
    varying = {network.get_input(index).name for index in range(network.num_inputs)}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        operands = (layer.get_input(operand) for operand in range(layer.num_inputs))
        if not any(operand is not None and operand.name in varying for operand in operands):
            continue
        varying.update(layer.get_output(output).name for output in range(layer.num_outputs))
        if kind := kinds.get(layer.type):
            nodes.update(dict.fromkeys(onnx_nodes(layer.metadata) or (layer.name,), kind))
    return nodes
