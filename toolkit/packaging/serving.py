"""How Triton is asked to serve a model, and whether the engine allows it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engines.errors import InputError, UnsupportedError
from engines.tensors import TensorSpec
from toolkit.packaging.model import Model

Device = Literal["auto", "gpu", "cpu"]
Accelerator = Literal["tensorrt", "openvino"]

ACCELERATED: dict[str, str] = {"": "FP32", "fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
"""The word of Triton's TensorRT accelerator for a graph's precision; it has none for BF16 and FP8."""

_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}
_PLAN_TYPES = frozenset({"bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32"})
_GRAPH_TYPES = frozenset(_TYPES) - {"bfloat16"}  # Triton's ONNX Runtime backend hands no BF16 tensor over


@dataclass(frozen=True)
class Serving:
    """What is asked of Triton.

    Attributes:
        max_batch: samples a run at most; None for the engine's own largest.
        max_delay: seconds that a request may wait for company although an instance is idle; 0, Triton's default,
            batches what has come while all instances were busy, and waits for nothing.
        queue: requests that may wait; further ones are refused at once. None for no bound, Triton's default.
        device: where instances run: "auto" is the GPU for a plan, the CPU for a graph whose Q/DQ is placed for it,
            and Triton's choice (every GPU, else the CPU) for other graphs.
        instances: on each GPU, or on the CPU.
        gpus: the numbers of the GPUs; empty for all that Triton sees.
        accelerator: what ONNX Runtime hands a graph to.
        threads: CPU threads of each instance of a graph; None for ONNX Runtime's choice, which is all cores.
    """

    max_batch: int | None = None
    max_delay: float = 0.0
    queue: int | None = None
    device: Device = "auto"
    instances: int = 1
    gpus: tuple[int, ...] = ()
    accelerator: Accelerator | None = None
    threads: int | None = None


def settle(model: Model, serving: Serving) -> Serving:
    """``serving`` with its device decided, if the engine can be served so.

    Raises:
        InputError: two wishes contradict each other, or the engine.
        UnsupportedError: Triton would not load the engine, or would answer otherwise than it was measured.
    """
    _check_numbers(serving)
    _check_types(model)
    if serving.gpus and serving.device == "cpu":
        raise InputError("--gpus and --device cpu contradict each other", "give one of them")
    if model.kind == "plan":
        return _settle_plan(model, serving)
    if model.precision == "fp8":
        raise UnsupportedError(
            f"'{model.path}' is FP8, and ONNX Runtime's optimisations, which Triton can't switch off one by one, "
            "change what such a graph computes",
            "package the plan that TensorRT builds from it: toolkit build-engine GRAPH.onnx --fp8 --backend tensorrt",
        )
    device = _device(serving)
    if model.placement == "tensorrt" and serving.accelerator is None:
        raise UnsupportedError(
            f"the Q/DQ of '{model.path}' is placed for TensorRT: ONNX Runtime alone would run it slower than FP32",
            f"package {_for_onnxruntime(model.path)}, or a TensorRT plan, or give --accelerator tensorrt or openvino",
        )
    if model.placement == "onnxruntime":
        if device == "gpu":
            raise UnsupportedError(
                f"the Q/DQ of '{model.path}' is placed for ONNX Runtime's CPU kernels, and it has none for GPUs",
                "leave out --device gpu, --gpus and --accelerator tensorrt, or package a TensorRT plan",
            )
        device = "cpu"
    if serving.accelerator == "tensorrt" and model.precision not in ACCELERATED:
        raise UnsupportedError(
            f"Triton's TensorRT accelerator has no {model.precision.upper()} mode",
            "package a TensorRT plan: toolkit build-engine GRAPH.onnx "
            f"--{model.precision} --backend tensorrt, on the GPU that Triton has",
        )
    return replace(serving, device=device)


def type_of(spec: TensorSpec) -> str:
    """Triton's name of a tensor's element type."""
    return _TYPES[spec.dtype]


def _check_numbers(serving: Serving) -> None:
    if serving.instances < 1 or not 0 <= serving.max_delay < 3600 or (serving.queue or 1) < 1:
        raise InputError(
            f"instances={serving.instances}, max_delay={serving.max_delay} and queue={serving.queue} make no sense",
            "instances and queue are 1 or more, and the delay is a few milliseconds, in seconds (0.002)",
        )
    if any(number is not None and number < 1 for number in (serving.max_batch, serving.threads)):
        raise InputError(
            f"max_batch={serving.max_batch} and threads={serving.threads} make no sense", "both are 1 or more"
        )
    if min(serving.gpus, default=0) < 0 or len(set(serving.gpus)) < len(serving.gpus):
        raise InputError(f"GPUs {list(serving.gpus)} make no sense", "give each GPU's number once, such as 0,1")


def _check_types(model: Model) -> None:
    taken = _PLAN_TYPES if model.kind == "plan" else _GRAPH_TYPES
    backend = "TensorRT" if model.kind == "plan" else "ONNX Runtime"
    for spec in (*model.inputs, *model.outputs):
        if spec.dtype not in taken:
            raise UnsupportedError(
                f"Triton's {backend} backend hands over no tensor of type {spec.dtype}, as '{spec.name}' of "
                f"'{model.path}' is",
                "build or export it with inputs and outputs in FP32 or FP16",
            )


def _settle_plan(model: Model, serving: Serving) -> Serving:
    if serving.device == "cpu":
        raise InputError(f"'{model.path}' is a TensorRT plan: no CPU runs it", "package the graph for --device cpu")
    if serving.accelerator is not None:
        raise InputError(
            f"--accelerator {serving.accelerator} is for graphs, and '{model.path}' is a plan", "leave it out"
        )
    if serving.threads is not None:
        raise InputError("--threads is for graphs: a plan computes on the GPU", "leave it out")
    if model.passport and model.passport.options.get("weights_stripped"):
        raise UnsupportedError(
            f"'{model.path}' was built without its weights, and Triton gives a plan none",
            "build it without --weights-stripped",
        )
    return replace(serving, device="gpu")


def _device(serving: Serving) -> Device:
    device: Device = "gpu" if serving.gpus else serving.device
    if serving.accelerator is None:
        return device
    wants: Device = "gpu" if serving.accelerator == "tensorrt" else "cpu"
    if device not in {"auto", wants}:
        raise InputError(
            f"--accelerator {serving.accelerator} works on the {wants.upper()}, not on the {device.upper()}",
            f"leave out one of them, or give --device {wants}",
        )
    return wants


def _for_onnxruntime(path: Path) -> str:
    other = path.with_name(path.name.removesuffix(".int8.onnx") + ".int8.ort.onnx")
    if path.name.endswith(".int8.onnx") and other.is_file():
        return f"'{other}'"
    return "the graph of `toolkit build-engine GRAPH.onnx --int8 --backend onnxruntime`"
