"""PyTorch to ONNX: one FP32 master graph with a dynamic batch, readable names and the metadata inside."""

import contextlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from engines.errors import BuildError, InputError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from engines.tensors import TensorSpec
from export.exportable import exportable
from export.graph import check_graph, remove_unused, tensor_specs, topological_sort, write_metadata
from export.onnxlib import onnx
from export.passes.constants import constants_to_initializers
from export.passes.lift_opset import lift_opset
from export.passes.module_names import name_after_modules
from export.passes.noops import remove_noops
from export.passes.strip_notes import strip_notes
from export.passes.uint8_input import take_uint8_input
from export.signature import BATCH, example, flat, run_once

OPSETS = range(18, 24)
"""The opsets that can be written; 20 is the default."""

_TRACED = 20  # newer opsets are lifted from this one, which every supported PyTorch writes itself

_FREE_BATCH = "compute shapes from x.shape[0] or with -1, so that the batch stays free"


def to_onnx(
    module: nn.Module,
    metadata: ModelMetadata,
    *,
    opset: int = 20,
    uint8_input: bool = False,
    progress: Progress = QUIET,
) -> onnx.ModelProto:
    """Export a network.

    Args:
        module: on the CPU, takes ``metadata.taken`` by position (pictures as float32 [N, C, H, W]) and gives
            ``metadata.given`` in its order: a classifier's scores [N, classes], or any structure of tensors.
        metadata: goes into the graph.
        opset: one of :data:`OPSETS`.
        uint8_input: the graph takes uint8 [batch, H, W, C] pictures and normalises them itself.
        progress: is told of the steps.

    Returns:
        A valid graph whose inputs and outputs are called as the metadata says (``input`` and ``logits`` of an
        ordinary classifier), with one dynamic ``batch``; nodes are called like the PyTorch modules.

    Raises:
        InputError: the opset is not supported, or the module can't take its inputs, or gives something else.
        BuildError: PyTorch's exporter can't express the module, or fixes its batch size.
    """
    if opset not in OPSETS:
        raise InputError(
            f"opset {opset} can't be written", f"opsets {OPSETS.start} to {OPSETS.stop - 1} are supported"
        )
    require("onnxscript", "Exporting to ONNX", "export")
    progress.begin("Exporting to ONNX", 3, "steps")
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        samples = _example(module, metadata)
        progress.advance()
        model = _trace(module, metadata, samples, min(opset, _TRACED))
        progress.advance()
        _clean(model, module, opset, metadata.architecture)
        if uint8_input:
            take_uint8_input(model.graph, metadata.preprocess)
        lift_opset(model, opset)
        write_metadata(model, replace(metadata, uint8_input=uint8_input))
        check_graph(model, "the exported graph")
        progress.advance()
    finally:
        for part, training in modes.items():
            part.training = training
        progress.end()
    return model


def _example(module: nn.Module, metadata: ModelMetadata) -> tuple[torch.Tensor, ...]:
    """A batch of two, after a trial run that tells a wrong input size from an exporter's failure."""
    if metadata.pictures is None or metadata.outputs:
        samples = example(metadata.taken, 2)
        _check_answers(run_once(module, samples), metadata.given)
        return samples
    preprocess = metadata.preprocess
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, preprocess.channels, preprocess.height, preprocess.width, generator=generator)
    try:
        with torch.no_grad():
            result = module(pictures)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the network can't take {preprocess.channels}x{preprocess.height}x{preprocess.width} images: {error}",
            "give the size that it was trained at with --input-size",
        ) from error
    if not isinstance(result, torch.Tensor) or result.ndim != 2 or len(result) != 2:
        shape = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise InputError(
            f"the network gives {shape} for two images, not one row of logits each", "export a classifier's logits"
        )
    return (pictures,)


def _check_answers(answers: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec]) -> None:
    """Refuse answers to two samples that aren't what the metadata says; names are the metadata's."""
    values = list(answers.values())
    found = "; ".join(f"{name} {list(value.shape)}" for name, value in answers.items())
    fits = len(values) == len(specs) and all(
        (2, *spec.shape[1:]) == tuple(value.shape) for value, spec in zip(values, specs, strict=False)
    )
    if not fits:
        raise InputError(
            f"the network gives {found} for two samples, not {'; '.join(map(str, specs))}",
            "name its outputs as it gives them",
        )


def _trace(
    module: nn.Module, metadata: ModelMetadata, samples: tuple[torch.Tensor, ...], opset: int
) -> onnx.ModelProto:
    plain = not metadata.outputs and metadata.pictures is not None
    try:
        with contextlib.nullcontext() if plain else flat(module), exportable(module), _quiet(), torch.no_grad():
            batch = torch.export.Dim(BATCH)
            program = torch.onnx.export(
                module,
                samples,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in samples),
                input_names=[spec.name for spec in metadata.taken],
                output_names=[spec.name for spec in metadata.given],
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        reason = _root_cause(error)
        remedy = "export at a fixed control flow, or write that part with other operators"
        if "specialized" in reason or "Constraints violated" in reason:
            remedy = _FREE_BATCH
        raise BuildError(f"PyTorch can't export this network: {reason}", remedy) from error
    if program is None:
        raise BuildError("PyTorch's exporter gave nothing", "report the network")
    model = program.model_proto
    if not isinstance(model, onnx.ModelProto):
        raise BuildError("PyTorch's exporter gave no ONNX model", "install a newer onnxscript")
    return model


def _clean(model: onnx.ModelProto, module: nn.Module, opset: int, name: str) -> None:
    """Make what the exporter wrote small, plain and readable."""
    graph = model.graph
    constants_to_initializers(graph)
    remove_noops(graph, tensor_specs(model))
    remove_unused(graph)
    parameters = frozenset(key for key, _ in (*module.named_parameters(), *module.named_buffers()))
    name_after_modules(graph, parameters, min(opset, _TRACED))
    strip_notes(graph)
    topological_sort(graph)
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.HasField("dim_value"):
            raise BuildError(f"the network computes with a fixed batch of {first.dim_value}", _FREE_BATCH)
        first.dim_param = BATCH
    graph.name = name
    del model.metadata_props[:]
    model.doc_string = ""
    model.producer_name = "onnx-tensorrt-toolkit"
    model.producer_version = importlib.metadata.version("onnx-tensorrt-toolkit")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks (missing torchvision, its own deprecations) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _root_cause(error: BaseException) -> str:
    """The first line of the innermost error: the outer ones only tell of the exporter's stages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
