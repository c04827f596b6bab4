"""Quantised graphs as other tools write them, and graphs with one fault each."""

import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from calibration.qdq import quantise
from tests.calibration.graphs import IMAGES, graph_of, table_of
from tests.calibration.renaming import give, insert, node_of, values_of
from tests.tiny import tiny_graph

I8, U8 = np.int8(0), np.uint8(0)


def stock(model: onnx.ModelProto, folder: Path, **options) -> onnx.ModelProto:
    """What ``onnxruntime.quantization.quantize_static`` makes."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"input": IMAGES}]

        def get_next(self):
            return self.left.pop() if self.left else None

    onnx.save(model, folder / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(str(folder / "m.onnx"), str(folder / "q.onnx"), Reader(), **options)
    return onnx.load(folder / "q.onnx")


def options(name: str) -> dict:
    from onnxruntime.quantization import QuantType

    symmetric = {"ActivationSymmetric": True, "QuantizeBias": False}
    return {
        "defaults": {},
        "uint8": {"activation_type": QuantType.QUInt8},
        "int16": {"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt8},
        "symmetric": {"per_channel": True, "extra_options": symmetric},
        "pairs": {"extra_options": {**symmetric, "AddQDQPairToWeight": True, "DedicatedQDQPair": True}},
    }[name]


def placed(tensors: dict[str, np.generic], scale: float = 0.02) -> onnx.ModelProto:
    """The tiny graph with Q/DQ behind each tensor, zero points as given, and int8 weights for the convolutions."""
    model = tiny_graph(opset=21)
    users = {name: [node for node in model.graph.node if name in node.input] for name in tensors}
    for name, zero in tensors.items():
        give(model, **{f"{name}.s": np.float32(scale), f"{name}.z": np.asarray(zero)})
        parameters = [f"{name}.s", f"{name}.z"]
        nodes = [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.q"], f"{name}.Q"),
            helper.make_node("DequantizeLinear", [f"{name}.q", *parameters], [f"{name}.d"], f"{name}.DQ"),
        ]
        names = [node.name for node in model.graph.node]
        first = min(names.index(user.name) for user in users[name])
        insert(model, names[first], *nodes)
        for user in users[name]:
            node = node_of(model, user.name)
            node.input[:] = [f"{name}.d" if item == name else item for item in node.input]
    for name in ("conv1", "conv2"):
        weight = values_of(model, f"{name}.weight")
        step = np.float32(np.abs(weight).max() / 127)
        give(model, **{f"{name}.w8": np.rint(weight / step).astype(np.int8), f"{name}.ws": step})
        insert(model, name, helper.make_node("DequantizeLinear", [f"{name}.w8", f"{name}.ws"], [f"{name}.w"]))
        node_of(model, name).input[1] = f"{name}.w"
    onnx.checker.check_model(model, full_check=True)
    return model


def good() -> onnx.ModelProto:
    """The tiny graph as this toolkit places it for TensorRT."""
    master = tiny_graph(opset=21)
    return quantise(master, table_of(master), "tensorrt", remainder="fp32")


def with_pool(scale=None, zero=None) -> onnx.ModelProto:
    """:func:`good` with another scale or zero point for the data of conv2."""
    model = good()
    if scale is not None:
        give(model, **{"pool.scale": scale})
    if zero is not None:
        give(model, **{"pool.zero_point": zero})
    if np.ndim(scale):
        for name in ("pool.quantized", "pool.dequantized"):
            node_of(model, name).attribute.append(helper.make_attribute("axis", 1))
    return model


def with_weight(name: str, stored=None, scale=None, zero=None, axis: int = 0) -> onnx.ModelProto:
    """:func:`good` with another weight, scale or zero point for one layer."""
    model = good()
    for what, values in ((".int8", stored), (".scale", scale), (".zero_point", zero)):
        if values is not None:
            give(model, **{f"{name}.weight{what}": values})
    node_of(model, f"{name}.weight.dequantized").attribute[0].i = axis
    return model


def with_bias(kind: type) -> onnx.ModelProto:
    """:func:`good` with a quantised bias in conv2."""
    model = good()
    give(model, b=np.zeros(16, kind), bs=np.full(16, 1e-3, np.float32))
    insert(model, "conv2", helper.make_node("DequantizeLinear", ["b", "bs"], ["bias"], "bias", axis=0))
    node_of(model, "conv2").input[2] = "bias"
    return model


def with_between(operator: str, **attributes) -> onnx.ModelProto:
    """:func:`good` with an operator between the DequantizeLinear and conv2."""
    model = good()
    insert(model, "conv2", helper.make_node(operator, ["pool.dequantized"], ["x"], "x", **attributes))
    node_of(model, "conv2").input[0] = "x"
    return model


def half_quantised(index: int) -> onnx.ModelProto:
    """:func:`good` with float data (0) or a float weight (1) in conv2."""
    model = good()
    give(model, wf=np.full((16, 8, 3, 3), 0.01, np.float32))
    node_of(model, "conv2").input[index] = "pool" if index == 0 else "wf"
    return model


def single(operator: str, weight: tuple[int, ...], axis: int, channels: int, **attributes) -> onnx.ModelProto:
    """One quantised layer with its weight's scales along ``axis``."""
    shape = ["batch", weight[0]] if len(weight) == 2 else ["batch", 8, 8, 8]
    transposed = operator == "Transposed"
    shape = ["batch", weight[1]] if transposed else shape
    output = ["batch", weight[0] if transposed else weight[1], 16, 16][: len(shape)]
    if operator == "Conv":
        output = ["batch", weight[0], 8, 8]
    constants = {
        "s": np.float32(0.02), "z": I8, "w": np.ones(weight, np.int8), "ws": np.full(channels, 0.01, np.float32),
        "wz": np.zeros(channels, np.int8),
    }  # fmt: skip
    pair = ["s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", *pair], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *pair], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd", axis=axis),
    ]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["wd"], ["wt"], "wt", perm=[1, 0]))
    kind = "MatMul" if transposed else operator
    nodes.append(helper.make_node(kind, ["d", "wt" if transposed else "wd"], ["logits"], "layer", **attributes))
    return graph_of(nodes, constants, shape=shape, output=output)


def with_scale_node() -> onnx.ModelProto:
    """:func:`good` with a scale that a Constant node gives."""
    model = good()
    scale, value = next(item for item in model.graph.initializer if item.name == "pool.scale"), TensorProto()
    value.CopyFrom(scale)
    model.graph.initializer.remove(scale)
    insert(model, "pool.quantized", helper.make_node("Constant", [], ["pool.scale"], "constant", value=value))
    return model
