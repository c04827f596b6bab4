"""Engines to package: plans that are a header and a passport, and small real graphs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as messages

from engines.passport import Passport, passport_path
from engines.tensors import TensorSpec
from tests.engines.test_header import tensorrt_plan
from tests.tiny import METADATA, tiny_graph

IMAGE = (3, 16, 16)


def profile(least: int, best: int, most: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {"input": ((least, *IMAGE), (best, *IMAGE), (most, *IMAGE))}


def plan_in(folder: Path, name: str = "model.fp16.engine", **facts: Any) -> Path:
    """A plan of TensorRT 10.13.3 with its passport: batches of 1 to 32, best at 8, FP32 in and out."""
    engine = folder / name
    engine.write_bytes(tensorrt_plan())
    passport = Passport.of(
        engine,
        backend="tensorrt",
        precision="fp16",
        command="toolkit build-engine model.onnx --fp16",
        compute_capabilities=("8.9",),
        profiles=(profile(1, 8, 32),),
        inputs=(TensorSpec("input", "float32", ("batch", *IMAGE)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 5)),),
        metadata=METADATA,
        sources={"weights": "sha256:w", "graph": "sha256:g"},
    )
    replace(passport, **facts).write(passport_path(engine))
    return engine


def graph_in(folder: Path, name: str = "model.onnx", *, batch: int | None = None, **facts: Any) -> Path:
    """The tiny classifier; ``batch`` bakes one in."""
    model = tiny_graph(**facts)
    if batch is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    path = folder / name
    onnx.save(model, path)
    return path


def cast_graph(folder: Path, kind: int, name: str = "model.onnx") -> Path:
    """A graph that gives its input back as elements of another type, and one value a sample."""
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=kind),
        helper.make_node("ReduceMax", ["x"], ["peak"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "cast",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("y", kind, ["n", 4]),
            helper.make_tensor_value_info("peak", TensorProto.FLOAT, ["n"]),
        ],
    )
    path = folder / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def config_in(folder: Path) -> Any:
    """What Triton would read there."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), messages.ModelConfig())
