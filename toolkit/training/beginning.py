"""The weights that a training begins with: drawn anew, or taken over from a checkpoint."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engines.errors import CheckpointError, DataError, InputError
from engines.preprocess import Preprocess
from export.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from export.checkpoint import Checkpoint
    from export.training.transfer import Transfer


def fresh(architecture: str, model: str | None, classes: int, preprocess: Preprocess, recipe: Recipe) -> "nn.Module":
    """A network for these classes with weights drawn from the recipe's seed; torch's generator stays as it was.

    Args:
        architecture: the registry's name; without meaning where ``model`` is given.
        model: people's own network, as ``--model`` names it.
        classes: how many.
        preprocess: the pictures that it must take.
        recipe: seed and initialisation.

    Raises:
        CheckpointError: it doesn't take such pictures.
        DataError: there is a single class.
        InputError: it can't be made, or has another number of classes.
    """
    from export.checkpoint import check_input
    from export.models.registry import build_empty
    from export.training import initialised

    if classes < 2:
        raise DataError("the data has a single class", "give images of at least two classes")
    if model is None:
        check_input(build_empty(architecture, classes, preprocess.channels), preprocess, architecture)
        return initialised(architecture, classes, preprocess.channels, recipe)
    module = _own(model, classes, recipe)
    count = check_input(module, preprocess, f"the network of --model {model}")
    if count != classes:
        raise InputError(
            f"'{model}' has {count} classes, the data {classes}",
            "let the network take num_classes, or give it as an argument: --model 'FILE.py:NAME(num_classes="
            f"{classes})'",
        )
    return module


def _own(model: str, classes: int, recipe: Recipe) -> "nn.Module":
    import torch

    from export.models.alexnet import initialise_kaiming
    from export.sources.own import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = build(model, classes=classes).module
        module.requires_grad_(True).train()
        if recipe.initialisation == "kaiming":
            initialise_kaiming(module)
    return module


def taken_over(
    module: "nn.Module", source: "Checkpoint", labels: tuple[str, ...], preprocess: Preprocess
) -> "Transfer":
    """Give a network the weights of a checkpoint; the head stays new where the classes are others.

    Args:
        module: of the checkpoint's architecture; changed in place.
        source: whose weights.
        labels: the classes of ``module``.
        preprocess: the pictures that ``module`` takes.

    Raises:
        CheckpointError: there is nothing to take over.
    """
    from export.training.transfer import heads, take_over

    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    anew = () if _same_classes(source.metadata.labels, labels) else heads(module, shape)
    return take_over(module, source.module.state_dict(), anew=anew)


def _same_classes(theirs: tuple[str, ...], ours: tuple[str, ...]) -> bool:
    """Whether the classes are the same; weights that name none are taken for those of as many."""
    nameless = all(re.fullmatch(rf"(class[ _-]?)?{number}", name) for number, name in enumerate(theirs))
    return theirs == ours or (nameless and len(theirs) == len(ours))


def check_heard(given: Mapping[str, Any], module: "nn.Module", preprocess: Preprocess) -> None:
    """Refuse numbers that this network has no use for.

    Args:
        given: the options; None where not given.
        module: the network.
        preprocess: the pictures that it takes.

    Raises:
        InputError: there is nothing that drops, or no auxiliary head that learns.
    """
    from torch import nn

    from export.training.transfer import heads

    if given.get("dropout") and not any(isinstance(layer, nn.Dropout) for layer in module.modules()):
        raise InputError("the network has no dropout layers (torch.nn.Dropout) for --dropout", "leave --dropout out")
    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    if given.get("aux_weight") and len(heads(module, shape)) == 1:
        raise InputError("the network has no auxiliary heads for --aux-weight", "leave --aux-weight out")
    if given.get("aux_weight") and given.get("freeze"):
        raise InputError("--freeze trains the main head only: --aux-weight is not heard", "give one of the two")


def told(transfer: "Transfer", source: str) -> str:
    """One line: what was taken over, and what begins anew."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in transfer.left))
    shown = ", ".join(layers[:6]) + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
    begun = f"; begun anew: {shown}" if layers else ""
    return f"{len(transfer.taken)} of {len(transfer.taken) + len(transfer.left)} tensors taken from '{source}'{begun}"


def check_whole(transfer: "Transfer") -> None:
    """Refuse to quantise a network of which a part begins with random weights.

    Raises:
        InputError: a layer was not taken over.
    """
    if loose := [name for name in transfer.left if "num_batches" not in name]:
        raise InputError(
            f"--qat goes on with a trained network, and '{loose[0]}' would begin anew: "
            "the classes of the data are not the checkpoint's",
            "fine-tune it on this data without --qat first",
        )


def check_head_only(transfer: "Transfer", module: "nn.Module", preprocess: Preprocess) -> None:
    """Refuse to freeze layers that begin with random weights.

    Raises:
        CheckpointError: a layer besides the head was not taken over.
    """
    from export.training.transfer import heads

    found = heads(module, (2, preprocess.channels, preprocess.height, preprocess.width))
    loose = [name for name in transfer.left if name.rpartition(".")[0] not in found and "num_batches" not in name]
    if loose:
        raise CheckpointError(
            f"--freeze would keep '{loose[0]}' as random as it is: the checkpoint has no such tensor",
            "train without --freeze, or from a checkpoint of the same network",
        )
