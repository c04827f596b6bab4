"""From any exporter's ONNX file to a master graph: the order of the steps."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError, InputError
from engines.files import digest_file
from engines.metadata import ModelMetadata
from engines.progress import QUIET, Progress
from engines.tensors import TensorSpec
from export.foreign.batch import Freed
from export.foreign.edit import Constants, Shape, infer
from export.foreign.facts import describe
from export.foreign.folding import fold_constants
from export.foreign.judging import Trial
from export.foreign.layers import plain_layers
from export.foreign.naming import name_nodes
from export.foreign.operators import refuse_control_flow, refuse_operators
from export.foreign.opset import NEWEST, to_opset
from export.foreign.reading import read_foreign
from export.foreign.settling import SIZES, settle_shapes
from export.foreign.tensors import Layout, Takes, channels_first, declare_outputs, loosen, read_inputs
from export.foreign.transposes import cancel_transposes
from export.foreign.types import refuse_types, to_float32
from export.graph import check_graph, get_property, weights_digest, write_metadata
from export.onnxlib import onnx
from export.passes.noops import remove_noops
from export.passes.strip_notes import strip_notes
from export.sources.description import NOTHING, Description
from export.structure import remove_unused, tensor_specs, topological_sort

OPSETS = range(18, NEWEST + 1)
"""The opsets that an imported graph can be lifted to."""


@dataclass(frozen=True)
class Imported:
    """A master graph that was made from a foreign one.

    Attributes:
        model: the graph, with its metadata.
        metadata: as it is in the graph.
        changes: what was changed, a line each.
        notes: what was guessed, a line each.
        trial: what it is to be judged against.
        weights: the digest of the file's weights.
    """

    model: onnx.ModelProto
    metadata: ModelMetadata
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    trial: Trial
    weights: str

    def feeds(self, count: int, seed: int = 0, images: NDArray[np.uint8] | None = None) -> dict[str, NDArray[Any]]:
        """Inputs for the master: random ones, or pictures as the network sees them."""
        found = dict(self.trial.takes.random(count, seed))
        if self.metadata.pictures is not None and images is not None:
            name = self.trial.takes.inputs[0].name
            found[name] = images if self.metadata.uint8_input else self.metadata.preprocess.normalise(images)
        return found


def import_foreign(
    path: Path | str,
    description: Description = NOTHING,
    *,
    opset: int = 20,
    layout: Layout = "nchw",
    progress: Progress = QUIET,
) -> Imported:
    """Make a master graph of an ONNX file; it isn't judged yet (:func:`export.foreign.judging.judge`).

    Args:
        path: the file.
        description: what the user says of the network.
        opset: older graphs are lifted to it; newer ones stay.
        layout: "nhwc" for a graph whose float pictures have their channels last.
        progress: told of the steps.

    Raises:
        InputError: an option makes no sense, or contradicts the graph.
        GraphError: the graph can't become a master graph; the reason names the node.
        UnsupportedError: ONNX Runtime can't run it.
    """
    if opset not in OPSETS:
        raise InputError(
            f"opset {opset} can't be written", f"opsets {OPSETS.start} to {OPSETS.stop - 1} are supported"
        )
    path, name = Path(path), f"'{path}'"
    changes, notes = list[str](), list[str]()
    progress.begin("Importing", 5, "steps")
    try:
        model = read_foreign(path, changes)
        if get_property(model, "toolkit.metadata") is not None:
            raise InputError(f"{name} was made by this toolkit", "use it as it is: it carries its metadata")
        weights = weights_digest(model)
        _choose_outputs(model, description, name, changes)
        refuse_operators(model, name)
        refuse_types(model, name)
        takes = read_inputs(model, description, layout, name)
        progress.advance()
        plain, precision = _plain(model, takes, opset, name, changes)
        progress.advance()
        _free(model, takes, name, changes)
        progress.advance()
        _tidy(model, takes, changes)
        scored_flat(model, changes)
        progress.advance()
        shapes = _declare(model, takes, name)
        metadata = describe(model, takes, shapes, description, path.name.removesuffix(".onnx"), notes)
        metadata = metadata.with_origin(
            weights=weights,
            graph=digest_file(path),
            exporter=f"{model.producer_name} {model.producer_version}".strip(),
        )
        _finish(model, metadata)
        progress.advance()
    except UnicodeDecodeError as error:  # protobuf tells of broken names when they are read
        raise GraphError(f"{name} is damaged: names in it are no text", "export the model again") from error
    finally:
        progress.end()
    trial = Trial(name, path, takes, precision, plain, metadata.scored)
    return Imported(model, metadata, tuple(changes), tuple(notes), trial, weights)


def _choose_outputs(model: onnx.ModelProto, description: Description, name: str, changes: list[str]) -> None:
    """Keep the outputs that were asked for, in that order."""
    values = {value.name: value for value in model.graph.output}
    if unknown := [wanted for wanted in description.outputs if wanted not in values]:
        raise InputError(f"{name} has no output '{unknown[0]}'", f"its outputs are {', '.join(values)}")
    if not description.outputs or list(description.outputs) == list(values):
        return
    kept = []
    for wanted in description.outputs:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(values[wanted])
        kept.append(copy)
    del model.graph.output[:]
    model.graph.output.extend(kept)
    remove_unused(model.graph)
    read = {tensor for node in model.graph.node for tensor in node.input}
    for index in reversed(range(len(model.graph.input))):
        if model.graph.input[index].name not in read:
            del model.graph.input[index]
    changes.append(f"outputs: kept {', '.join(description.outputs)} of {len(values)}")


def _plain(
    model: onnx.ModelProto, takes: Takes, opset: int, name: str, changes: list[str]
) -> tuple[onnx.ModelProto | None, str]:
    """Constants folded, control flow decided, the opset lifted, one float type; a copy of a half graph to judge."""
    loosen(model, takes)
    folded = fold_constants(model)
    refuse_control_flow(model.graph, name)
    to_opset(model, opset, name, changes)
    strip_notes(model.graph)
    precision = to_float32(model, changes)
    plain = None
    if precision != "fp32":
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
    folded += fold_constants(model)
    before = len(model.graph.node)
    remove_noops(model.graph, _specs(model))
    remove_unused(model.graph)
    idle = before - len(model.graph.node)
    if folded + idle:
        changes.append(f"folded: {folded} nodes that compute constants, {idle} that do nothing at inference")
    return plain, precision


def _specs(model: onnx.ModelProto) -> dict[str, TensorSpec] | None:
    """Types of the tensors; None where a baked batch makes shapes contradict each other."""
    try:
        return tensor_specs(model)
    except GraphError:
        return None


def _free(model: onnx.ModelProto, takes: Takes, name: str, changes: list[str]) -> None:
    batch = takes.batch or 1
    shapes = {item.name: (batch, *item.original_shape) for item in takes.inputs}
    freed = Freed(model, shapes, batch)
    if takes.batch is None and freed.problem(name) is None:
        return
    rewritten = freed.free()
    if (problem := freed.problem(name)) is not None:
        raise problem
    if rewritten:
        changes.append(f"batch: freed at {', '.join(rewritten[:4])}{', ...' if len(rewritten) > 4 else ''}")
    elif takes.batch is not None:
        changes.append(f"batch: {takes.batch} became free")


def _tidy(model: onnx.ModelProto, takes: Takes, changes: list[str]) -> None:
    """Shapes settled, channels first, layers as calibration knows them."""
    graph = model.graph

    def feeds(size: int) -> dict[str, NDArray[Any]]:
        given = takes.original(takes.random(size, 0))
        floats = {key for key, value in given.items() if value.dtype.kind == "f" or value.dtype.name == "bfloat16"}
        return {key: value.astype(np.float32) if key in floats else value for key, value in given.items()}

    try:
        settled = settle_shapes(model, feeds)
    except GraphError as error:
        raise GraphError(
            f"the graph doesn't run at batches of {SIZES[0]} and {SIZES[1]}: {error.cause}",
            "export the model again with a dynamic batch",
        ) from error
    if settled:
        fold_constants(model)
        changes.append(f"shapes: {settled} computed ones became constants")
    channels_first(model, takes, changes)
    cancelled = cancel_transposes(model)
    if cancelled:
        changes.append(f"layout: {cancelled} transpositions cancelled")
    layers = plain_layers(model)
    if layers:
        changes.append("layers: " + ", ".join(f"{count} {kind} folded" for kind, count in layers.most_common()))
    remove_noops(graph, tensor_specs(model))
    remove_unused(graph)
    topological_sort(graph)
    nameless, twice = name_nodes(graph)
    if nameless + twice:
        changes.append(f"names: {nameless} nodes without one, {twice} with that of another node")


def scored_flat(model: onnx.ModelProto, changes: list[str]) -> None:
    """A classifier's scores [batch, classes, 1, 1] become [batch, classes]."""
    graph, shapes = model.graph, infer(model)
    if len(graph.output) != 1:
        return
    output = graph.output[0]
    shape: Shape = shapes.get(output.name, ())
    made = [node for node in graph.node if output.name in node.output]
    if len(shape) != 4 or shape[2:] != (1, 1) or shape[1] in {None, 1} or not made:
        return
    inner = Constants(graph).tensor(f"{output.name}.unflattened")
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, tensor in enumerate(tensors):
                if tensor == output.name:
                    tensors[place] = inner
    graph.node.append(onnx.helper.make_node("Flatten", [inner], [output.name], f"{output.name}.flatten", axis=1))
    changes.append(f"outputs: '{output.name}' is [batch, {shape[1]}], without its 1x1")


def _declare(model: onnx.ModelProto, takes: Takes, name: str) -> dict[str, Shape]:
    """Declare the outputs' shapes, batch first, as they are inferred; what isn't inferred has a name of its own."""
    shapes = infer(model)
    declared = dict[str, Sequence[int | str | None]]()
    for value in model.graph.output:
        shape = shapes.get(value.name)
        if shape is None:
            continue
        if not shape:
            raise GraphError(
                f"output '{value.name}' of {name} is a single number, without a batch",
                "leave it out: --outputs names those to keep",
            )
        rest = [f"{value.name}.{axis}" if size is None else size for axis, size in enumerate(shape) if axis]
        declared[value.name] = ("batch", *rest)
    declare_outputs(model, declared)
    return shapes


def _finish(model: onnx.ModelProto, metadata: ModelMetadata) -> None:
    strip_notes(model.graph)
    del model.metadata_props[:]
    model.doc_string, model.domain, model.model_version = "", "", 0
    model.graph.name = metadata.architecture
    model.producer_name = "onnx-tensorrt-toolkit"
    model.producer_version = importlib.metadata.version("onnx-tensorrt-toolkit")
    write_metadata(model, metadata)
    check_graph(model, "the imported graph")
