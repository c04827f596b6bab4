"""Checkpoints: load safely whatever people save, recognise it, save with everything that travels with a model."""

import contextlib
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
from export.models.registry import Recognition, completed, empty_for, preprocess_for, recognise, rename
from export.models.registry import architecture as find_architecture
from export.pickles import read_pickle
from export.sources import own
from export.sources.description import NOTHING, Description, assumed, metadata_of
from export.sources.files import kind_of_file
from export.sources.heads import Described
from export.sources.heads import describe as found_out
from export.sources.safetensors import read_safetensors
from export.sources.whole import from_program, from_script, pictures_of
from export.state_dicts import State, canonical, digest_state, find_state

FORMAT = "onnx-tensorrt-toolkit/checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, ready to run or export.

    Attributes:
        module: in eval mode, FP32, on the CPU; maps ``metadata.taken``, in order, to ``metadata.given``.
        metadata: architecture, labels and preprocessing; ``origin["weights"]`` is ``digest``.
        recognised: the architecture was worked out from keys and shapes, neither read nor given.
        digest: :func:`export.state_dicts.digest_state` of the weights.
        training: how it was trained, as :func:`export.training.train` recorded it; None for a foreign one.
        carries_metadata: labels and preprocessing are its own; False where they are described or defaults.
        own_code: the network was made by the code that ``model`` named.
        notes: what to tell the user of how it was understood, a line each.
    """

    module: nn.Module
    metadata: ModelMetadata
    recognised: bool
    digest: str
    training: Mapping[str, Any] | None = None
    carries_metadata: bool = True
    own_code: bool = False
    notes: tuple[str, ...] = ()


def load_checkpoint(
    path: Path | str | None,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    describe: Description = NOTHING,
    known: ModelMetadata | None = None,
) -> Checkpoint:
    """Load a network and its weights, however they are kept.

    A file is the toolkit's own checkpoint, a bare state dict, one in a training script's dictionary or in
    safetensors, a pickled module, an archive of ``torch.export`` or a TorchScript archive.

    Args:
        path: the file, whatever its suffix; None where ``model`` brings its weights.
        architecture: the registry's name, when keys and shapes don't say or to insist on one. A state dict
            with that architecture's shapes in its order is then accepted under other keys too.
        classes: insist on this number of classes.
        trust_pickle: load pickled objects too, which runs code from the file.
        model: the code that makes the network of a file that holds weights alone: ``file.py:Net``,
            ``package.module:factory``, ``torchvision:resnet50`` or ``timm:resnet50d`` (:mod:`export.sources.own`).
            Files that say themselves what they are don't use it.
        describe: labels, preprocessing and tensors, for a file that has no metadata.
        known: the metadata of a graph that may have been made of the file: taken, where nothing is described, for a
            file that has no metadata and whose weights' digest is the graph's.

    Raises:
        CheckpointError: it is damaged, not a checkpoint, a pickled object without ``trust_pickle``, holds NaN, its
            architecture isn't recognised, or ``model`` isn't its network.
        InputError: the file can't be read, ``architecture`` is unknown, ``model`` fails, or ``describe`` doesn't fit.
    """
    if architecture is not None:
        find_architecture(architecture)
        if model is not None:
            raise InputError("--architecture and --model both say what the network is", "give one of the two")

    def loaded(said: Description) -> Checkpoint:
        return _loaded(path, architecture, classes, model, describe, said, trust=trust_pickle)

    if known is not None and not describe and known.origin.get("weights"):
        with contextlib.suppress(InputError):
            found = loaded(Description.of(known))
            made_of = {known.origin["weights"], *known.origin.get("members", "").split(", ")}
            if found.carries_metadata or found.digest in made_of:
                return found
    return loaded(describe)


def _loaded(
    path: Path | str | None,
    architecture: str | None,
    classes: int | None,
    model: str | None,
    describe: Description,
    said: Description,
    *,
    trust: bool,
) -> Checkpoint:
    """What a file holds; ``said`` is for one without metadata, ``describe`` what one that has it must agree with."""
    if path is None:
        if model is None:
            raise InputError("there is neither a checkpoint nor --model", "give one of the two, or both")
        return _coded(None, "", model, classes, said)
    path = Path(path)
    kind = kind_of_file(path)
    if kind in {"program", "script"}:
        if architecture is not None:
            raise InputError(f"'{path}' is a whole network already", "leave --architecture out")
        program = kind == "program"
        return _found(
            from_program(path, said, classes, trust=trust) if program else from_script(path, said, classes),
            str(path),
        )
    value: object = read_safetensors(path)[0] if kind == "safetensors" else read_pickle(path, trust=trust)
    if isinstance(value, Mapping) and value.get("format") == FORMAT:
        return _insist(_own(value, path, architecture, model, describe), path, classes)
    found = find_state(value, str(path))
    if model is not None:
        state = dict(found.state_dict()) if isinstance(found, nn.Module) else found
        assert isinstance(state, Mapping)  # noqa: S101 - find_state gives a module or a mapping
        return _coded(dict(state), str(path), model, classes, said)
    if isinstance(found, nn.Module):
        return _pickled(found, path, architecture, classes, said)
    return _insist(_foreign(found, path, architecture, said), path, classes)


def _insist(checkpoint: Checkpoint, path: Path, classes: int | None) -> Checkpoint:
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
        module: a network of the registry, or one of people's own code; its weights are stored as FP32.
        metadata: ``architecture`` must be the registry's name of ``module``, or what :class:`export.sources.own.Spec`
            calls it; its code isn't stored, so loading it needs ``model`` again.
        training: numbers, strings, lists and dictionaries of them.

    Returns:
        The digest of the weights, which the stored metadata carries as ``origin["weights"]``.

    Raises:
        CheckpointError: ``module`` isn't the architecture that ``metadata`` names, or holds NaN.
        InputError: the file can't be written.
    """
    coded = own.is_spec(metadata.architecture)
    state = canonical(dict(module.state_dict()), f"the {metadata.architecture} to be saved", strip=not coded)
    found = None if coded else recognise(state)
    if found is not None and (found.name, found.classes) != (metadata.architecture, len(metadata.labels)):
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


def _own(
    value: Mapping[str, Any], path: Path, architecture: str | None, model: str | None, describe: Description
) -> Checkpoint:
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
    if said := [option for option in describe.said() if option != "--input-size"]:
        raise InputError(f"'{path}' says itself what {said[0]} says", f"leave {said[0]} out")
    tensors = find_state(state, str(path))
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"'{path}' lacks its weights", "take another copy, or train it again")
    training = value.get("training")
    training = training if isinstance(training, Mapping) else None
    if own.is_spec(metadata.architecture):
        checkpoint = _own_coded(dict(tensors), metadata, path, model, training)
    else:
        weights = rename(metadata.architecture, canonical(tensors, str(path)))
        found = recognise(weights)
        if found.classes != len(metadata.labels) or found.channels != metadata.preprocess.channels:
            raise CheckpointError(
                f"'{path}' contradicts itself: {found.classes} classes and {found.channels} channels in its weights, "
                f"{len(metadata.labels)} and {metadata.preprocess.channels} in its metadata",
                "train or convert it again",
            )
        checkpoint = _checkpoint(weights, metadata, training=training)
    if metadata.origin.get("weights", checkpoint.digest) != checkpoint.digest:
        raise CheckpointError(
            f"the weights in '{path}' are not those that were saved: their digest differs",
            "the file is damaged: take another copy, or train it again",
        )
    size = describe.input_size
    if size is None:
        return checkpoint
    return with_input_size(checkpoint, *((size, size) if isinstance(size, int) else size))


def _own_coded(
    tensors: State, metadata: ModelMetadata, path: Path, model: str | None, training: Mapping[str, Any] | None
) -> Checkpoint:
    """A checkpoint of the toolkit whose network is people's own code."""
    if model is None:
        raise CheckpointError(
            f"'{path}' is a network of its own code, {metadata.architecture}, which isn't in the file",
            f"give --model {metadata.architecture} with the path of that code",
        )
    built = own.build(model, classes=len(metadata.labels) or None, state=tensors, name=str(path))
    names = tuple(spec.name for spec in metadata.outputs)
    said = Description(inputs=metadata.inputs, outputs=names, scores=metadata.scores)
    base = metadata.pictures or preprocess_for(None)
    found = found_out(built.module, f"{built.name} with '{path}'", said, base=base)
    shapes = [spec.shape for spec in found.metadata.outputs]
    ours = (len(found.metadata.labels), shapes)
    if ours != (len(metadata.labels), [spec.shape for spec in metadata.outputs]):
        raise CheckpointError(
            f"'{path}' contradicts {built.name}, which gives {'; '.join(map(str, found.metadata.given))}",
            "give the code that it was trained with",
        )
    digest = digest_state(canonical(tensors, str(path), strip=False))
    return Checkpoint(found.module, metadata.with_origin(weights=digest), False, digest, training, own_code=True)


def _coded(state: State | None, name: str, model: str, classes: int | None, describe: Description) -> Checkpoint:
    """Weights alone, or none, and the code that makes their network."""
    built = own.build(model, classes=classes, state=state, name=name)
    base = built.preprocess or pictures_of(dict(built.module.state_dict()))
    known: dict[str, Any] = {"labels": built.labels, "published": built.preprocess is not None}
    found = found_out(built.module, built.name, describe, base=base, classes=classes, **known)
    return _found(replace(found, notes=(*built.notes, *found.notes)), built.name, own_code=True)


def _found(found: Described, name: str, *, recognised: bool = False, own_code: bool = False) -> Checkpoint:
    """A network without metadata of its own."""
    digest = digest_state(canonical(dict(found.module.state_dict()), name, strip=False))
    metadata = found.metadata.with_origin(weights=digest)
    module = found.module.requires_grad_(False)
    return Checkpoint(
        module, metadata, recognised, digest, carries_metadata=False, own_code=own_code, notes=found.notes
    )


def _foreign(state: object, path: Path, architecture: str | None, describe: Description) -> Checkpoint:
    assert isinstance(state, Mapping)  # noqa: S101 - find_state gives a module or a mapping
    weights = canonical(state, str(path))
    if architecture is not None:
        weights = rename(architecture, weights)
    try:
        found = recognise(weights)
    except CheckpointError as error:
        remedy = f"{error.remedy}; or give the code of the network: --model FILE.py:CLASS"
        raise CheckpointError(f"'{path}': {error.cause}", remedy) from error
    if describe.inputs or describe.outputs or describe.scores not in {"auto", "logits"}:
        raise InputError(
            f"'{path}' is {found.name}, which takes pictures and gives logits",
            f"leave {next(option for option in describe.said() if option in _TENSORS)} out",
        )
    base = preprocess_for(found.name, found.channels)
    if describe.pictures(base).channels != found.channels:
        raise InputError(f"'{path}' takes {found.channels} channels", "leave --channels out")
    metadata = metadata_of(describe, found.name, classes=found.classes, base=base)
    checkpoint = _checkpoint(completed(weights), metadata, recognised=architecture is None)
    if describe.input_size is not None:
        check_input(checkpoint.module, metadata.preprocess, found.name)
    return replace(checkpoint, carries_metadata=False, notes=assumed(metadata, describe, pictures=True))


_TENSORS = {"--input", "--outputs", "--scores"}


def _pickled(
    module: nn.Module, path: Path, architecture: str | None, classes: int | None, describe: Description
) -> Checkpoint:
    """A module that runs its own forward; what is recognised of it is its input and preprocessing."""
    while isinstance(inner := getattr(module, "module", None) or getattr(module, "_orig_mod", None), nn.Module):
        module = inner
    weights = canonical(dict(module.state_dict()), str(path))
    recognised, base = False, pictures_of(weights)
    name = type(module).__name__
    try:
        found = recognise(weights if architecture is None else rename(architecture, weights))
        name, base, recognised = found.name, preprocess_for(found.name, found.channels), architecture is None
    except CheckpointError:
        if architecture is not None:
            raise
    module = module.to("cpu").float().eval().requires_grad_(False)
    told = f"the {name} in '{path}'"
    described = found_out(module, told, describe, base=base, classes=classes, published=recognised)
    metadata = replace(described.metadata, architecture=name)
    checkpoint = _found(replace(described, metadata=metadata), str(path), recognised=recognised)
    digest = digest_state(weights)
    return replace(checkpoint, digest=digest, metadata=metadata.with_origin(weights=digest))


def _checkpoint(
    weights: State,
    metadata: ModelMetadata,
    *,
    recognised: bool = False,
    training: Mapping[str, Any] | None = None,
) -> Checkpoint:
    found = Recognition(metadata.architecture, len(metadata.labels), metadata.preprocess.channels)
    module = empty_for(found, weights)
    module.load_state_dict(weights, assign=True)
    digest = digest_state(weights)
    return Checkpoint(
        module.eval().requires_grad_(False), metadata.with_origin(weights=digest), recognised, digest, training
    )
