"""The networks by name, and the way back: from the keys and shapes of a state dict to the name.

Importing this is cheap: factories are import strings, resolved by :func:`build`.
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engines.errors import CheckpointError, InputError
from engines.optional import require
from engines.preprocess import Preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ArchitectureSpec:
    """One network of the registry.

    Attributes:
        name: what ``--architecture`` takes.
        factory: ``module:Class``; the class takes ``(classes, channels)``.
        preprocess: input size, channels and normalisation that a checkpoint without metadata is given.
        description: one line.
    """

    name: str
    factory: str
    preprocess: Preprocess
    description: str


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


_GREY = Preprocess(224, 224, channels=1, resize="stretch", mean=(0.0,), std=(1.0,))

ARCHITECTURES: Mapping[str, ArchitectureSpec] = {
    spec.name: spec
    for spec in (
        ArchitectureSpec(
            "alexnet",
            "export.models.alexnet:AlexNet",
            Preprocess(224, 224),
            "torchvision's AlexNet: 64-192-384-256-256, adaptive 6×6 pool",
        ),
        ArchitectureSpec(
            "alexnet-2012",
            "export.models.alexnet:AlexNet2012",
            Preprocess(227, 227, crop_fraction=227 / 256),
            "the paper's AlexNet: two groups, local response normalisation, 227×227",
        ),
        ArchitectureSpec(
            "alexnet-single",
            "export.models.alexnet:AlexNetSingle",
            Preprocess(227, 227, crop_fraction=227 / 256),
            "one tower of the paper's widths, no LRN, 227×227 (conv1 … lostlayer)",
        ),
        ArchitectureSpec(
            "alexnet-d2l",
            "export.models.alexnet:AlexNetD2L",
            _GREY,
            "flat Sequential for greyscale 224×224",
        ),
    )
}


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
    factory: Callable[[int, int], nn.Module] = getattr(importlib.import_module(module), attribute)
    return factory(classes, channels or spec.preprocess.channels)


def build_empty(name: str, classes: int, channels: int | None = None) -> "nn.Module":
    """The network without storage (on torch's meta device), to read shapes or to load weights into."""
    torch = require("torch", f"Building {name}", "export")
    with torch.device("meta"):
        return build(name, classes, channels)


def recognise(state: Mapping[str, "torch.Tensor"]) -> Recognition:
    """Name the architecture whose keys and shapes a state dict has, whatever its number of classes.

    Args:
        state: tensors by key, prefixes already stripped (:func:`export.state_dicts.canonical`).

    Raises:
        CheckpointError: none fits; the cause says what was found, the remedy what the nearest lack.
    """
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for name in ARCHITECTURES:
        if match := _match(name, found):
            return match
    raise CheckpointError(f"no known architecture fits: {describe(found)}", _nearest(found))


def rename(name: str, state: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Give a state dict the keys of ``name`` when its shapes are that architecture's, in the same order.

    For a network that was named by the user: the same layers saved under other names. Keys that fit already stay.

    Raises:
        CheckpointError: the shapes differ.
    """
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if _match(name, found):
        return dict(state)
    keys = list(_template(architecture(name).name).shapes)
    if len(keys) == len(found) and _match(name, dict(zip(keys, found.values(), strict=True))):
        return dict(zip(keys, state.values(), strict=True))
    raise CheckpointError(
        f"the weights are not those of {name}: {describe(found)}", f"{name}: {_difference(name, found)}"
    )


@dataclass(frozen=True)
class _Template:
    """Shapes of an architecture's tensors, and which of their axes count classes or input channels."""

    shapes: Mapping[str, Shape]
    class_axes: frozenset[tuple[str, int]]
    channel_axes: frozenset[tuple[str, int]]


@functools.cache
def _template(name: str) -> _Template:
    # Two numbers that no layer's width has: an axis that changes with one of them counts that.
    base, classes, channels = (_shapes(name, *numbers) for numbers in ((1013, 7), (1019, 7), (1013, 5)))
    return _Template(base, _changed(base, classes), _changed(base, channels))


def _shapes(name: str, classes: int, channels: int) -> dict[str, Shape]:
    return {key: tuple(value.shape) for key, value in build_empty(name, classes, channels).state_dict().items()}


def _changed(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> frozenset[tuple[str, int]]:
    return frozenset(
        (key, axis) for key, shape in before.items() for axis, size in enumerate(shape) if after[key][axis] != size
    )


def _match(name: str, found: Mapping[str, Shape]) -> Recognition | None:
    template = _template(name)
    if template.shapes.keys() != found.keys() or _mismatched(template, found):
        return None
    counts = [{found[key][axis] for key, axis in axes} for axes in (template.class_axes, template.channel_axes)]
    if any(len(sizes) != 1 for sizes in counts) or 0 in counts[0]:
        return None
    classes, channels = (sizes.pop() for sizes in counts)
    return Recognition(name, classes, channels) if channels in {1, 3} else None


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
        keys = list(_template(name).shapes)
        if len(keys) == len(found) and _match(name, dict(zip(keys, found.values(), strict=True))):
            return f"the shapes are those of {name} under other names: if it is that, give --architecture {name}"
    ranked = sorted(ARCHITECTURES, key=lambda name: -_likeness(name, found))[:2]
    if not _likeness(ranked[0], found):
        return f"known are {', '.join(ARCHITECTURES)}: save the state dict of one of these"
    return "nearest are " + "; ".join(f"{name}: {_difference(name, found)}" for name in ranked)


def _likeness(name: str, found: Mapping[str, Shape]) -> float:
    """The share of tensors that fit by key and shape; a key alone or a shape alone counts half."""
    template = _template(name)
    wrong = set(_mismatched(template, found))
    common = template.shapes.keys() & found.keys()
    by_shape = set(template.shapes.values()) & set(found.values())
    score = len(common - wrong) + len(common & wrong) / 2 + len(by_shape) / 2
    return score / len(template.shapes.keys() | found.keys())


def _difference(name: str, found: Mapping[str, Shape]) -> str:
    template = _template(name)
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
