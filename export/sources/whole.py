"""Files that hold a whole network, code and weights: exported programs and TorchScript."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.models.registry import preprocess_for
from export.sources.description import Description
from export.sources.heads import Described
from export.sources.heads import describe as describe_network
from export.sources.pt2 import load_program
from export.sources.torchscript import convert, load_script

if TYPE_CHECKING:
    import torch


def from_program(path: Path, describe: Description, classes: int | None = None, *, trust: bool = False) -> Described:
    """The program of a ``torch.export`` archive; its inputs are its own.

    Raises:
        CheckpointError: it can't be loaded, or its network can't be used.
        InputError: what is said doesn't fit it.
    """
    program = load_program(path, trust=trust)
    shapes = [spec.shape for spec in program.inputs]
    if describe.inputs:
        if [(spec.shape, spec.dtype) for spec in describe.inputs] != [(s.shape, s.dtype) for s in program.inputs]:
            raise InputError(f"'{path}' takes {'; '.join(map(str, program.inputs))}", "leave --input out")
        base = None
    else:
        base = _as_pictures(program.inputs)
        if base is None:
            if describe.of_pictures():
                taken = "; ".join(map(str, program.inputs))
                raise InputError(f"'{path}' takes {taken}, and no pictures", f"leave {describe.of_pictures()[0]} out")
            describe = replace(describe, inputs=program.inputs)
    if base is not None and describe.pictures(base).channels != base.channels:
        raise InputError(f"'{path}' takes {shapes[0][1]} channels", "leave --channels out")
    name = type(program.module).__name__
    found = describe_network(program.module, name, describe, base=base or preprocess_for(None), classes=classes)
    return replace(found, notes=(*program.notes, *found.notes))


def from_script(path: Path, describe: Description, classes: int | None = None) -> Described:
    """The network of a TorchScript archive, which knows the sizes of its inputs as little as a state dict does.

    Raises:
        CheckpointError: it can't be loaded or converted, or doesn't take its inputs.
        InputError: what is said doesn't fit it.
    """
    script = load_script(path)
    base = pictures_of(dict(script.state_dict()))
    pictures = describe.pictures(base)
    image = TensorSpec("input", "float32", ("batch", pictures.channels, pictures.height, pictures.width))
    program = convert(script, describe.inputs or (image,), path)
    found = describe_network(program.module, type(program.module).__name__, describe, base=base, classes=classes)
    return replace(found, notes=(*program.notes, *found.notes))


def _as_pictures(inputs: Sequence[TensorSpec]) -> Preprocess | None:
    """Default preprocessing for a program that takes one batch of pictures; None for another."""
    if len(inputs) != 1 or inputs[0].dtype != "float32" or len(inputs[0].shape) != 4:
        return None
    _, channels, height, width = inputs[0].shape
    if channels not in {1, 3}:
        return None
    return replace(preprocess_for(None, int(channels)), height=int(height), width=int(width))


def pictures_of(state: "Mapping[str, torch.Tensor]") -> Preprocess:
    """Default preprocessing with the channels that the first convolution takes."""
    first = next((tensor for tensor in state.values() if tensor.ndim == 4), None)
    return preprocess_for(None, int(first.shape[1]) if first is not None and first.shape[1] in {1, 3} else 3)
