"""The networks by name, and the way back: from the keys and shapes of a state dict to the name.

Importing this is cheap: factories are import strings, resolved by :func:`build`. A state dict is recognised with and
without the counters of its batch normalisations (``num_batches_tracked``, which published files often lack), and with
and without parts that only training has (GoogLeNet's auxiliary heads).
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engines.errors import CheckpointError, InputError
from engines.optional import require
from engines.preprocess import Preprocess
from export.models.specs import ARCHITECTURES, ArchitectureSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "ARCHITECTURES",
    "ArchitectureSpec",
    "Recognition",
    "architecture",
    "build",
    "build_empty",
    "completed",
    "empty_for",
    "preprocess_for",
    "recognise",
    "rename",
]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recognition:
    """What a state dict turned out to be.

    Attributes:
        name: key in :data:`ARCHITECTURES`.
        classes: number of logits.
        channels: number of input channels.
    """

    name: str
    classes: int
    channels: int


def architecture(name: str) -> ArchitectureSpec:
    """The registry's entry for ``name``.

    Raises:
        InputError: there is none; the remedy lists the nearest names.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    near = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(ARCHITECTURES)}"
    raise InputError(f"there is no architecture '{name}'", hint)


def preprocess_for(name: str | None, channels: int | None = None) -> Preprocess:
    """The default preprocessing of an architecture (None: an unknown one), for 1 or 3 channels.

    With another number of channels than the architecture's own, mean and standard deviation are averaged
    (colour to grey) or repeated (grey to colour).
    """
    spec = Preprocess(224, 224) if name is None else architecture(name).preprocess
    if channels in {None, spec.channels}:
        return spec
    if channels == 1:
        mean, std = (round(sum(values) / len(values), 4) for values in (spec.mean, spec.std))
        return replace(spec, channels=1, mean=(mean,), std=(std,))
    return replace(spec, channels=3, mean=spec.mean * 3, std=spec.std * 3)


def build(name: str, classes: int, channels: int | None = None) -> "nn.Module":
    """A freshly initialised network (from torch's global generator), in training mode.

    Args:
        name: key in :data:`ARCHITECTURES`.
        classes: number of logits, at least 1.
        channels: input channels; the architecture's own number by default.

    Raises:
        InputError: the name is unknown or ``classes`` isn't positive.
        MissingLibraryError: torch isn't installed.
    """
    spec = architecture(name)
    if classes < 1:
        raise InputError(f"{name} needs at least one class, got {classes}", "check --classes")
    require("torch", f"Building {name}", "export")
    module, _, attribute = spec.factory.partition(":")
    factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    return factory(classes, channels or spec.preprocess.channels, **spec.options)


def build_empty(name: str, classes: int, channels: int | None = None) -> "nn.Module":
    """The network without storage (on torch's meta device), to read shapes or to load weights into."""
    torch = require("torch", f"Building {name}", "export")
    with torch.device("meta"):
        return build(name, classes, channels)


def empty_for(recognition: Recognition, state: Collection[str]) -> "nn.Module":
    """The network without storage whose keys are those of a recognised and completed state dict.

    Args:
        recognition: what the state dict is.
        state: its keys. Training-only parts that it lacks are taken out of the network.
    """
    module = build_empty(recognition.name, recognition.classes, recognition.channels)
    for part in _absent(recognition.name, state):
        setattr(module, part, None)
    return module


def recognise(state: Mapping[str, "torch.Tensor"]) -> Recognition:
    """Name the architecture whose keys and shapes a state dict has, whatever its number of classes.

    Args:
        state: tensors by key, prefixes already stripped (:func:`export.state_dicts.canonical`).

    Raises:
        CheckpointError: none fits; the cause says what was found, the remedy what the nearest lack.
    """
    found = _found(state)
    for name, spec in ARCHITECTURES.items():
        count = sum(not _belongs(key, spec.training_only) for key in found)
        if spec.tensors in {None, count} and (match := _match(name, found)):
            return match
    raise CheckpointError(f"no known architecture fits: {describe(found)}", _nearest(found))


def rename(name: str, state: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Give a state dict the keys of ``name`` when its shapes are that architecture's, in the same order.

    For a network that was named by the user: the same layers saved under other names. Keys that fit already stay.

    Returns:
        The state dict, :func:`completed`.

    Raises:
        CheckpointError: the shapes differ.
    """
    found = _found(state)
    if _match(name, found):
        return completed(state)
    if (keys := _keys_in_order(architecture(name).name, found)) is not None:
        return completed({key: state[old] for key, old in zip(keys, found, strict=True)})
    raise CheckpointError(
        f"the weights are not those of {name}: {describe(found)}", f"{name}: {_difference(name, found)}"
    )


def completed(state: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """A recognised state dict with the counters that its batch normalisations lack, at zero."""
    torch = require("torch", "Loading a checkpoint", "export")
    counters = (key.removesuffix(_MEAN) + _COUNTER for key in state if key.endswith(_MEAN))
    return {**{key: torch.zeros((), dtype=torch.int64) for key in counters if key not in state}, **state}


_MEAN, _COUNTER = ".running_mean", ".num_batches_tracked"


def _found(state: Mapping[str, "torch.Tensor"]) -> dict[str, Shape]:
    """The shapes of a state dict's tensors but the counters of its batch normalisations."""
    return {
        key: tuple(tensor.shape)
        for key, tensor in state.items()
        if not (key.endswith(_COUNTER) and key.removesuffix(_COUNTER) + _MEAN in state)
    }


def _belongs(key: str, parts: Collection[str]) -> bool:
    return key.partition(".")[0] in parts


def _absent(name: str, found: Collection[str]) -> frozenset[str]:
    """The training-only parts of an architecture of which a state dict has no key."""
    return frozenset(part for part in architecture(name).training_only if not any(_belongs(k, {part}) for k in found))


@dataclass(frozen=True)
class _Template:
    """Shapes of an architecture's tensors, and which of their axes count classes or input channels."""

    shapes: Mapping[str, Shape]
    class_axes: frozenset[tuple[str, int]]
    channel_axes: frozenset[tuple[str, int]]


_CLASSES, _CHANNELS = 1013, 997
"""Sizes that no layer has otherwise: an axis of one of them counts that."""


@functools.cache
def _template(name: str, absent: frozenset[str] = frozenset()) -> _Template:
    """The template of an architecture without some of its training-only parts."""
    if absent:
        whole = _template(name)
        shapes = {key: shape for key, shape in whole.shapes.items() if not _belongs(key, absent)}
    else:
        shapes = _found(build_empty(name, _CLASSES, _CHANNELS).state_dict())
    return _Template(shapes, _axes(shapes, _CLASSES), _axes(shapes, _CHANNELS))


def _axes(shapes: Mapping[str, Shape], wanted: int) -> frozenset[tuple[str, int]]:
    return frozenset(
        (key, axis) for key, shape in shapes.items() for axis, size in enumerate(shape) if size == wanted
    )


def _fitting(name: str, found: Collection[str]) -> _Template:
    """The template with those training-only parts that a state dict has."""
    return _template(name, _absent(name, found))


def _match(name: str, found: Mapping[str, Shape]) -> Recognition | None:
    template = _fitting(name, found)
    if template.shapes.keys() != found.keys() or _mismatched(template, found):
        return None
    counts = [{found[key][axis] for key, axis in axes} for axes in (template.class_axes, template.channel_axes)]
    if any(len(sizes) != 1 for sizes in counts) or 0 in counts[0]:
        return None
    classes, channels = (sizes.pop() for sizes in counts)
    return Recognition(name, classes, channels) if channels in {1, 3} else None


def _keys_in_order(name: str, found: Mapping[str, Shape]) -> list[str] | None:
    """The architecture's keys when the shapes found, in their order, are its own; None otherwise."""
    for absent in {frozenset[str](), frozenset(architecture(name).training_only)}:
        keys = list(_template(name, absent).shapes)
        if len(keys) == len(found) and _match(name, dict(zip(keys, found.values(), strict=True))):
            return keys
    return None


def _mismatched(template: _Template, found: Mapping[str, Shape]) -> list[str]:
    """Keys that both have with shapes that differ in more than the numbers of classes and channels."""
    free = template.class_axes | template.channel_axes
    return [
        key
        for key, shape in template.shapes.items()
        if key in found
        and (
            len(found[key]) != len(shape)
            or any(found[key][axis] != size for axis, size in enumerate(shape) if (key, axis) not in free)
        )
    ]


def describe(found: Mapping[str, Shape]) -> str:
    """How many tensors, and the first and last of them with their shapes."""
    entries = [f"{key} {list(shape)}" for key, shape in found.items()]
    shown = entries if len(entries) <= 4 else [*entries[:2], "…", *entries[-2:]]
    return f"{len(entries)} tensor{'s' * (len(entries) != 1)} ({', '.join(shown)})"


def _nearest(found: Mapping[str, Shape]) -> str:
    for name in ARCHITECTURES:
        if _keys_in_order(name, found) is not None:
            return f"the shapes are those of {name} under other names: if it is that, give --architecture {name}"
    ranked = sorted(ARCHITECTURES, key=lambda name: -_likeness(name, found))[:2]
    if not _likeness(ranked[0], found):
        return f"known are {', '.join(ARCHITECTURES)}: save the state dict of one of these"
    return "nearest are " + "; ".join(f"{name}: {_difference(name, found)}" for name in ranked)


def _likeness(name: str, found: Mapping[str, Shape]) -> float:
    """The share of tensors that fit by key and shape; a key alone or a shape alone counts half."""
    template = _fitting(name, found)
    wrong = set(_mismatched(template, found))
    common = template.shapes.keys() & found.keys()
    by_shape = set(template.shapes.values()) & set(found.values())
    score = len(common - wrong) + len(common & wrong) / 2 + len(by_shape) / 2
    return score / len(template.shapes.keys() | found.keys())


def _difference(name: str, found: Mapping[str, Shape]) -> str:
    template = _fitting(name, found)
    wrong = _mismatched(template, found)
    parts = [
        _listed("missing", [key for key in template.shapes if key not in found]),
        _listed("unexpected", [key for key in found if key not in template.shapes]),
        _listed("other shape", [f"{key} {list(found[key])} not {_shape_text(template, key)}" for key in wrong]),
    ]
    return ", ".join(part for part in parts if part) or "its numbers of classes or channels disagree between tensors"


def _shape_text(template: _Template, key: str) -> str:
    names = {axis: "classes" for k, axis in template.class_axes if k == key}
    names |= {axis: "channels" for k, axis in template.channel_axes if k == key}
    return f"[{', '.join(names.get(axis, str(size)) for axis, size in enumerate(template.shapes[key]))}]"


def _listed(what: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 2} more" if len(entries) > 2 else ""
    return f"{what} {', '.join(entries[:2])}{more}"
