"""The ``config.pbtxt`` of a model in Triton's repository, made of Triton's own generated message.

What is left to Triton, because its default is right or the field is for something else, is in :data:`LEFT`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.optional import require
from engines.tensors import TensorSpec
from toolkit.packaging.batches import Batches, batches_of, whole_shapes
from toolkit.packaging.model import Model
from toolkit.packaging.notes import notes_on
from toolkit.packaging.serving import ACCELERATED, Serving, settle, type_of

LABELS = "labels.txt"
FILES = {"plan": "model.plan", "graph": "model.onnx"}
"""What the file is called in the folder of its version; the names that Triton looks for."""

SOURCE = "toolkit.source"
FILE = "toolkit.file"
"""The parameters with the digest of the weights that the model was made from, and its file's name."""

LEFT = {
    "runtime": "the shared library of a backend of one's own",
    "sequence_batching": "for models that keep a state",
    "ensemble_scheduling": "for models made of models",
    "batch_input": "for batches of samples of different sizes",
    "batch_output": "likewise",
    "cc_model_filenames": "one file for every compute capability",
    "metric_tags": "labels of metrics, the operator's choice",
    "model_operations": "libraries of operators of one's own",
    "model_transaction_policy": "for models that give several answers to a request",
    "model_repository_agents": "for repositories that are encrypted or checked",
    "response_cache": "the operator's choice, and the server has to have a cache",
    "model_metrics": "the buckets of histograms, the operator's choice",
}
"""Fields of Triton's configuration that aren't written, and why."""

_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Config:
    """A model's configuration.

    Attributes:
        text: of ``config.pbtxt``.
        value: the same as JSON.
        labels: of ``labels.txt``, a line a class; None where the classes have no names.
        notes: what whoever serves it should know, a line each.
    """

    text: str
    value: Mapping[str, Any]
    labels: str | None
    notes: tuple[str, ...]


def make_config(name: str, model: Model, serving: Serving) -> Config:
    """Describe ``model`` to Triton under ``name``.

    Raises:
        InputError: ``serving`` contradicts itself or the engine.
        UnsupportedError: Triton would not load the engine.
        MissingLibraryError: tritonclient isn't installed.
    """
    messages = require("tritonclient.grpc.model_config_pb2", "Packaging for Triton", "serve")
    json_format = require("google.protobuf.json_format", "Packaging for Triton", "serve")
    text_format = require("google.protobuf.text_format", "Packaging for Triton", "serve")
    serving, batches = settle(model, serving), batches_of(model, serving.max_batch)
    config = messages.ModelConfig(
        name=name,
        platform="tensorrt_plan" if model.kind == "plan" else "onnxruntime_onnx",
        backend="tensorrt" if model.kind == "plan" else "onnxruntime",
        default_model_filename=FILES[model.kind],
        max_batch_size=batches.largest,
    )
    config.version_policy.latest.num_versions = 1
    labels = _labels(model)
    _tensors(config, messages, model, batches, labelled=labels is not None)
    _instances(config, messages, model, serving)
    if batches.largest:
        _batching(config, batches, serving)
    if serving.accelerator:
        _accelerate(config, model, batches, serving)
    warmed = _warm_up(config, model, batches)
    for key, text in _parameters(model, serving).items():
        config.parameters[key].string_value = text
    notes = notes_on(model, batches, serving, warmed=warmed, labelled=labels is not None)
    text = text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    header = f"# Triton's configuration of {model.path.name}, written by `toolkit package`.\n"
    value = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return Config(header + text, value, labels, notes)


def origin_of(text: str) -> tuple[str, str] | None:
    """The digest of the weights and the name of the file that a configuration's model was made from.

    None where it isn't one of ours.
    """
    messages = require("tritonclient.grpc.model_config_pb2", "Packaging for Triton", "serve")
    text_format = require("google.protobuf.text_format", "Packaging for Triton", "serve")
    try:
        config = text_format.Parse(text, messages.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError:
        return None
    source, file = (config.parameters[key].string_value for key in (SOURCE, FILE))
    return (source, file) if source and file else None


def _labels(model: Model) -> str | None:
    """A line a class: what Triton shows in place of an index."""
    names = model.metadata.labels if model.metadata else ()
    return "".join(f"{' '.join(label.split())}\n" for label in names) or None


def _tensors(config: Any, messages: Any, model: Model, batches: Batches, *, labelled: bool) -> None:
    image = model.inputs[0] if len(model.inputs) == 1 and model.metadata else None
    classes = len(model.metadata.labels) if model.metadata else 0
    for spec in model.inputs:
        tensor = config.input.add(name=spec.name, data_type=type_of(spec))
        _dims(tensor, spec, batches)
        if spec is image and len(tensor.dims) == 3:  # the formats' rule
            uint8 = bool(model.metadata and model.metadata.uint8_input)
            tensor.format = messages.ModelInput.FORMAT_NHWC if uint8 else messages.ModelInput.FORMAT_NCHW
    for spec in model.outputs:
        tensor = config.output.add(name=spec.name, data_type=type_of(spec))
        _dims(tensor, spec, batches)
        if labelled and tensor.dims and tensor.dims[-1] == classes:
            tensor.label_filename = LABELS


def _dims(tensor: Any, spec: TensorSpec, batches: Batches) -> None:
    shape = spec.shape
    if batches.largest or batches.only:  # the first dimension is the batch
        shape = ((batches.only,) if batches.only else ()) + shape[1:]
    tensor.dims.extend(size if isinstance(size, int) else -1 for size in shape)
    if not shape:  # Triton's own shapes have a dimension at least
        tensor.dims.append(1)
        tensor.reshape.SetInParent()


def _instances(config: Any, messages: Any, model: Model, serving: Serving) -> None:
    kinds = messages.ModelInstanceGroup
    kind = {"gpu": kinds.KIND_GPU, "cpu": kinds.KIND_CPU, "auto": kinds.KIND_AUTO}[serving.device]
    group = config.instance_group.add(kind=kind, count=serving.instances, gpus=serving.gpus)
    if len(model.profiles) > 1:  # without their numbers, the first is the only one that is used
        group.profile.extend(str(number) for number in range(len(model.profiles)))


def _batching(config: Any, batches: Batches, serving: Serving) -> None:
    batching = config.dynamic_batching
    batching.preferred_batch_size.extend(batches.preferred)
    batching.max_queue_delay_microseconds = round(serving.max_delay * _MICROSECONDS)
    policy = batching.default_queue_policy
    policy.allow_timeout_override = True  # else Triton ignores the timeout of a request
    if serving.queue is not None:
        policy.max_queue_size = serving.queue


def _accelerate(config: Any, model: Model, batches: Batches, serving: Serving) -> None:
    accelerators = config.optimization.execution_accelerators
    if serving.accelerator == "openvino":
        accelerators.cpu_execution_accelerator.add(name="openvino")
        return
    parameters = accelerators.gpu_execution_accelerator.add(name="tensorrt").parameters
    parameters["precision_mode"] = ACCELERATED[model.precision]
    shapes = {spec.name: spec.shape[1:] for spec in model.inputs}
    if batches.largest and all(isinstance(size, int) for shape in shapes.values() for size in shape):
        # Else an engine is built anew, for seconds or minutes, whenever a larger batch comes than any before.
        for bound, batch in (("min", 1), ("opt", batches.largest), ("max", batches.largest)):
            parameters[f"trt_profile_{bound}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, (batch, *shape)))}" for name, shape in shapes.items()
            )


def _warm_up(config: Any, model: Model, batches: Batches) -> bool:
    """Runs of zeros before the model is ready: the smallest, the largest and each profile's own batch."""
    if batches.largest:
        opt = whole_shapes(model, 1)
        shapes = {spec.name: spec.shape[1:] for spec in model.inputs}
        if any(isinstance(size, str) for shape in shapes.values() for size in shape):
            if opt is None:
                return False
            shapes = {name: shape[1:] for name, shape in opt.items()}
        for batch in sorted({1, *batches.preferred, batches.largest}):
            _warm(config, model, f"batch of {batch}", batch, shapes)
        return True
    seen: list[Mapping[str, tuple[int, ...]]] = []
    for which in (0, 2):
        whole = whole_shapes(model, which)
        if whole is not None and whole not in seen:
            seen.append(whole)
            _warm(config, model, "largest shape" if which else "smallest shape", 1, whole)
    return bool(seen)


def _warm(config: Any, model: Model, name: str, batch: int, shapes: Mapping[str, Any]) -> None:
    sample = config.model_warmup.add(name=name, batch_size=batch)
    for spec in model.inputs:
        entry = sample.inputs[spec.name]
        entry.data_type = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[type_of(spec)].number
        entry.dims.extend(shapes[spec.name] or (1,))
        entry.zero_data = True


def _parameters(model: Model, serving: Serving) -> dict[str, str]:
    """Where the model comes from and what its input means; backends ignore parameters that aren't theirs."""
    found = {"toolkit.digest": model.digest, SOURCE: model.source, FILE: model.path.name}
    if model.precision:
        found["toolkit.precision"] = model.precision
    if model.metadata:
        found["toolkit.architecture"] = model.metadata.architecture
        found["toolkit.uint8_input"] = json.dumps(model.metadata.uint8_input)
        if model.metadata.pictures is not None:
            found["toolkit.preprocess"] = json.dumps(model.metadata.pictures.to_json(), sort_keys=True)
    if model.passport:
        found["toolkit.command"] = model.passport.command
        found["toolkit.created"] = model.passport.created
        found |= {f"toolkit.made_from.{name}": digest for name, digest in model.passport.sources.items()}
    if serving.threads is not None:
        found["intra_op_thread_count"] = str(serving.threads)
    return found
