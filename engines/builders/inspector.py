"""Layer types from the JSON of TensorRT's engine inspector, which needs the engine on a GPU.

The JSON has ``Layers``, a list of objects when the engine was built with detailed profiling verbosity (of bare names
otherwise), and the engine's tensors under ``Bindings`` (TensorRT 10) or ``I/O Tensors`` (11). A layer tells its type
through its tensors: ``Format/Datatype`` ("Row major linear FP16 format") or ``Datatype`` ("Half").
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engines.builders.audit import Kind, Layer, LayerReport, onnx_nodes, widest
from engines.errors import EngineFormatError

_CONV = re.compile(r"conv|correlation|corrltn", re.IGNORECASE)
_MATMUL = re.compile(r"gemm|matrix ?_?multiply|matmul|fully_?connected|mha|attention", re.IGNORECASE)
_TYPES = (
    ("int8", re.compile(r"int8", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|float8|e4m3", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|float16|half", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)


def inspected_layers(text: str) -> LayerReport:
    """The layers in ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``.

    Raises:
        EngineFormatError: it isn't that JSON, or the engine was built without detailed profiling verbosity.
    """
    try:
        layers = json.loads(text)["Layers"]
        if not all(isinstance(layer, dict) for layer in layers):
            raise EngineFormatError(
                "the engine names its layers but not their types",
                "build it with detailed profiling verbosity, as `toolkit build-engine` does",
            )
        return LayerReport(tuple(map(_layer, layers)), "inspector")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineFormatError(
            f"the engine inspector's answer isn't understood: {type(error).__name__} {error}",
            "a newer TensorRT may need a newer toolkit",
        ) from error


def inspected_tensors(text: str) -> tuple[str, ...]:
    """Names of the engine's inputs and outputs in the inspector's JSON, of TensorRT 10 or 11.

    Raises:
        EngineFormatError: it isn't that JSON.
    """
    try:
        value = json.loads(text)
        tensors = value["I/O Tensors"] if "I/O Tensors" in value else value["Bindings"]
        return tuple(str(tensor["Name"] if isinstance(tensor, dict) else tensor) for tensor in tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFormatError(
            f"the engine inspector's answer names no tensors: {error}", "a newer TensorRT may need a newer toolkit"
        ) from error


def _layer(layer: Mapping[str, Any]) -> Layer:
    name = str(layer["Name"])
    kind = _kind(str(layer.get("ParameterType", "")), str(layer.get("LayerType", "")))
    inputs, constants = layer.get("Inputs", ()), layer.get("Constants", ())
    reads = [found for tensor in inputs if (found := _tensor_type(tensor))]
    types = (reads[:1] + _weight_type(layer, inputs, constants)) if kind != "other" else reads
    types = types or [found for tensor in constants if (found := _tensor_type(tensor))]
    return Layer(name, onnx_nodes(str(layer.get("Metadata", ""))), kind, widest(types))


def _weight_type(layer: Mapping[str, Any], inputs: Sequence[Any], constants: Sequence[Any]) -> list[str]:
    """The type of a convolution's or product's second operand, in a list; empty where the layer doesn't tell.

    Told apart from scales and bias, which are constants too, by having more than one dimension above 1; from a
    residual to add, which is an input too, by coming first.
    """
    weights = layer.get("Weights")
    if isinstance(weights, Mapping) and (found := _type_in(str(weights.get("Type", "")))):
        return [found]
    matrices = [item for item in constants if sum(size != 1 for size in item.get("Dimensions", (0, 0))) > 1]
    if len(inputs) > 1:  # a constant without dimensions may be a scale, where a second input can be the weights
        matrices = [item for item in matrices if "Dimensions" in item] or [inputs[1]]
    found = _tensor_type(matrices[0]) if matrices else None
    return [found] if found else []


def _kind(parameter_type: str, layer_type: str) -> Kind:
    # "CaskGemmConvolution" is a convolution in both fields; "kgen" and "Myelin" say it in neither.
    for text in (parameter_type, layer_type):
        if _CONV.search(text):
            return "conv"
        if _MATMUL.search(text):
            return "matmul"
    return "other"


def _tensor_type(tensor: Mapping[str, Any]) -> str | None:
    return _type_in(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or ""))


def _type_in(text: str) -> str | None:
    return next((kind for kind, pattern in _TYPES if pattern.search(text)), None)
