"""Checkpoints: load safely whatever people save, recognise it, save with everything that travels with a model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from engines.files import atomic_file
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export.models.registry import architecture as find_architecture
from export.models.registry import build_empty, preprocess_for, recognise, rename
from export.pickles import read_pickle
from export.state_dicts import State, canonical, digest_state, find_state

FORMAT = "onnx-tensorrt-toolkit/checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, ready to run or export.

    Attributes:
        module: in eval mode, FP32, on the CPU.
        metadata: architecture, labels and preprocessing; ``origin["weights"]`` is ``digest``.
        recognised: the architecture was worked out from keys and shapes, neither read nor given.
        digest: :func:`export.state_dicts.digest_state` of the weights.
        training: how it was trained, as :func:`export.training.train` recorded it; None for a foreign one.
    """

    module: nn.Module
    metadata: ModelMetadata
    recognised: bool
    digest: str
    training: Mapping[str, Any] | None = None


def load_checkpoint(
    path: Path | str, *, architecture: str | None = None, classes: int | None = None, trust_pickle: bool = False
) -> Checkpoint:
    """Load a checkpoint: the toolkit's own, a bare state dict, one in a training script's dictionary, or a module.

    Args:
        path: the file, whatever its suffix.
        architecture: the registry's name, when keys and shapes don't say or to insist on one. A state dict
            with that architecture's shapes in its order is then accepted under other keys too.
        classes: insist on this number of classes.
        trust_pickle: load a pickled ``nn.Module`` too, which runs code from the file.

    Raises:
        CheckpointError: it is damaged, not a checkpoint, a pickled object without ``trust_pickle``, holds NaN,
            or its architecture isn't recognised.
        InputError: the file can't be read, or ``architecture`` is unknown.
    """
    path = Path(path)
    if architecture is not None:
        find_architecture(architecture)
    value = read_pickle(path, trust=trust_pickle)
    if isinstance(value, Mapping) and value.get("format") == FORMAT:
        checkpoint = _own(value, path, architecture)
    else:
        found = find_state(value, str(path))
        checkpoint = (
            _pickled(found, path, architecture)
            if isinstance(found, nn.Module)
            else _foreign(found, path, architecture)
        )
    count = len(checkpoint.metadata.labels)
    if classes is not None and classes != count:
        raise CheckpointError(
            f"'{path}' has {count} classes, not {classes}", f"give --classes {count}, or leave it out"
        )
    return checkpoint


def save_checkpoint(
    path: Path | str, module: nn.Module, metadata: ModelMetadata, *, training: Mapping[str, Any] | None = None
) -> str:
    """Write a checkpoint that :func:`load_checkpoint` reads without a flag; whole or not at all.

    Args:
        path: the file to write.
        module: a network of the registry; its weights are stored as FP32.
        metadata: ``architecture`` must be the registry's name of ``module``.
        training: numbers, strings, lists and dictionaries of them.

    Returns:
        The digest of the weights, which the stored metadata carries as ``origin["weights"]``.

    Raises:
        CheckpointError: ``module`` isn't the architecture that ``metadata`` names, or holds NaN.
        InputError: the file can't be written.
    """
    state = canonical(dict(module.state_dict()), f"the {metadata.architecture} to be saved")
    found = recognise(state)
    if (found.name, found.classes) != (metadata.architecture, len(metadata.labels)):
        raise CheckpointError(
            f"the network is {found.name} with {found.classes} classes, "
            f"its metadata says {metadata.architecture} with {len(metadata.labels)}",
            "correct the metadata",
        )
    digest = digest_state(state)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "metadata": metadata.with_origin(weights=digest).to_json(),
        "state_dict": state,
        "training": None if training is None else dict(training),
    }
    with atomic_file(Path(path)) as file:
        torch.save(content, file)
    return digest


def with_input_size(checkpoint: Checkpoint, height: int, width: int) -> Checkpoint:
    """The checkpoint for another input size.

    Raises:
        CheckpointError: the network doesn't take that size.
        InputError: the size is out of range.
    """
    preprocess = replace(checkpoint.metadata.preprocess, height=height, width=width)
    check_input(checkpoint.module, preprocess, checkpoint.metadata.architecture)
    return replace(checkpoint, metadata=replace(checkpoint.metadata, pictures=preprocess))


@torch.no_grad()
def check_input(module: nn.Module, preprocess: Preprocess, name: str) -> int:
    """Run an image's worth of zeros through a network to learn whether it takes them.

    Args:
        module: a network on any device; on the meta device this costs nothing.
        preprocess: gives the input's size and channels.
        name: what to call the network in the error.

    Returns:
        The number of logits.

    Raises:
        CheckpointError: it doesn't take that input, or gives something else than ``[batch, classes]``.
    """
    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    mode = module.training
    try:
        output = module.eval()(torch.zeros(shape, device=device))
    except Exception as error:  # a foreign module's forward may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name} doesn't take {shape[1]}×{shape[2]}×{shape[3]} images: {reason}", "give another --input-size"
        ) from error
    finally:
        module.train(mode)
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[0] != 2:
        got = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise CheckpointError(
            f"{name} gives {got} for a batch of 2, not logits [2, classes]", "wrap it so that it returns its logits"
        )
    return int(output.shape[1])


def _own(value: Mapping[str, Any], path: Path, architecture: str | None) -> Checkpoint:
    version = value.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"'{path}' is a checkpoint of format version {version}; this toolkit reads up to {VERSION}",
            "upgrade onnx-tensorrt-toolkit",
        )
    state, metadata_json = value.get("state_dict"), value.get("metadata")
    if not isinstance(state, Mapping) or not isinstance(metadata_json, Mapping):
        raise CheckpointError(f"'{path}' lacks its weights or metadata", "take another copy, or train it again")
    try:
        metadata = ModelMetadata.from_json(metadata_json)
    except InputError as error:
        raise CheckpointError(f"'{path}': {error.cause}", "take another copy, or train it again") from error
    if architecture not in {None, metadata.architecture}:
        raise CheckpointError(f"'{path}' is {metadata.architecture}, not {architecture}", "leave --architecture out")
    tensors = find_state(state, str(path))
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"'{path}' lacks its weights", "take another copy, or train it again")
    weights = rename(metadata.architecture, canonical(tensors, str(path)))
    found = recognise(weights)
    if found.classes != len(metadata.labels) or found.channels != metadata.preprocess.channels:
        raise CheckpointError(
            f"'{path}' contradicts itself: {found.classes} classes and {found.channels} channels in its weights, "
            f"{len(metadata.labels)} and {metadata.preprocess.channels} in its metadata",
            "train or convert it again",
        )
    training = value.get("training")
    checkpoint = _checkpoint(weights, metadata, training=training if isinstance(training, Mapping) else None)
    if metadata.origin.get("weights", checkpoint.digest) != checkpoint.digest:
        raise CheckpointError(
            f"the weights in '{path}' are not those that were saved: their digest differs",
            "the file is damaged: take another copy, or train it again",
        )
    return checkpoint


def _foreign(state: object, path: Path, architecture: str | None) -> Checkpoint:
    assert isinstance(state, Mapping)  # noqa: S101 - find_state gives a module or a mapping
    weights = canonical(state, str(path))
    if architecture is not None:
        weights = rename(architecture, weights)
    try:
        found = recognise(weights)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error.cause}", error.remedy) from error
    metadata = ModelMetadata(found.name, _labels(found.classes), preprocess_for(found.name, found.channels))
    return _checkpoint(weights, metadata, recognised=architecture is None)


def _pickled(module: nn.Module, path: Path, architecture: str | None) -> Checkpoint:
    """A module that runs its own forward; what is recognised of it is its input and preprocessing."""
    while isinstance(inner := getattr(module, "module", None) or getattr(module, "_orig_mod", None), nn.Module):
        module = inner
    weights = canonical(dict(module.state_dict()), str(path))
    recognised = False
    try:
        found = recognise(weights if architecture is None else rename(architecture, weights))
        name, preprocess, recognised = found.name, preprocess_for(found.name, found.channels), architecture is None
    except CheckpointError:
        if architecture is not None:
            raise
        first = next((tensor for tensor in weights.values() if tensor.ndim == 4), None)
        channels = first.shape[1] if first is not None and first.shape[1] in {1, 3} else 3
        name, preprocess = type(module).__name__, preprocess_for(None, channels)
    module = module.to("cpu").float().eval().requires_grad_(False)
    count = check_input(module, preprocess, f"the {name} in '{path}'")
    digest = digest_state(weights)
    return Checkpoint(
        module, ModelMetadata(name, _labels(count), preprocess, origin={"weights": digest}), recognised, digest
    )


def _checkpoint(
    weights: State,
    metadata: ModelMetadata,
    *,
    recognised: bool = False,
    training: Mapping[str, Any] | None = None,
) -> Checkpoint:
    module = build_empty(metadata.architecture, len(metadata.labels), metadata.preprocess.channels)
    module.load_state_dict(weights, assign=True)
    digest = digest_state(weights)
    return Checkpoint(
        module.eval().requires_grad_(False), metadata.with_origin(weights=digest), recognised, digest, training
    )


def _labels(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))
