"""Several classifiers as one: a network that gives the mean of its members' probabilities.

Averaging probabilities, not logits, is the average of what the members say: a member whose logits are large by habit
weighs no more than the others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from engines.errors import CheckpointError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from export.checkpoint import Checkpoint
from export.state_dicts import canonical, digest_state

SEES = ("height", "width", "channels", "resize", "crop_fraction", "interpolation")
"""What members must agree on: they are given the same pixels. Mean and standard deviation may differ."""


class Member(nn.Module):
    """One classifier, in the ensemble's normalisation and order of classes.

    Args:
        network: float32 [N, C, H, W] -> scores [N, classes].
        softmax: its scores are logits.
        scale, shift: what makes the ensemble's input its own, a value a channel; None where it is.
        order: for each class of the ensemble its number here; None where they are the same.
    """

    scale: torch.Tensor | None
    shift: torch.Tensor | None
    order: torch.Tensor | None

    def __init__(
        self,
        network: nn.Module,
        *,
        softmax: bool,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.softmax = nn.Softmax(1) if softmax else nn.Identity()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("order", order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is not None and self.shift is not None:
            x = x * self.scale + self.shift
        probabilities: torch.Tensor = self.softmax(self.network(x))
        return probabilities if self.order is None else torch.index_select(probabilities, 1, self.order)


class Ensemble(nn.Module):
    """The mean of its members' probabilities: float32 [N, C, H, W] -> [N, classes]."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.members[0](x)
        for member in self.members[1:]:
            total = total + member(x)
        return total / len(self.members)


def ensemble(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Make one classifier of several.

    Args:
        checkpoints: two or more classifiers of the same classes, in any order of them, that see the same pixels.

    Returns:
        A checkpoint with the first one's preprocessing and order of classes, whose scores are probabilities.

    Raises:
        CheckpointError: there is only one, one is given twice or is no classifier, or their classes or input differ.
    """
    if len(checkpoints) < 2:
        raise CheckpointError("an ensemble of one network is that network", "give two or more checkpoints")
    first = checkpoints[0]
    digests = [one.digest for one in checkpoints]
    for number, one in enumerate(checkpoints, 1):
        if one.digest in digests[: number - 1]:
            raise CheckpointError(
                f"networks {digests.index(one.digest) + 1} and {number} have the same weights", "give each one once"
            )
        _check(one.metadata, first.metadata, number)
    module = Ensemble([_member(one, first.metadata) for one in checkpoints]).eval().requires_grad_(False)
    kinds = Counter(one.metadata.architecture for one in checkpoints)
    named = " + ".join(f"{count} {name}" if count > 1 else name for name, count in kinds.items())
    digest = digest_state(canonical(dict(module.state_dict()), "the ensemble"))
    metadata = replace(
        first.metadata,
        architecture=f"ensemble of {named}",
        scores="probabilities",
        origin={"weights": digest, "members": ", ".join(digests)},
    )
    return Checkpoint(module, metadata, recognised=False, digest=digest)


def _check(metadata: ModelMetadata, first: ModelMetadata, number: int) -> None:
    if metadata.scores == "none" or metadata.outputs or metadata.inputs:
        raise CheckpointError(
            f"network {number} ({metadata.architecture}) is no plain classifier of pictures",
            "an ensemble averages the probabilities of classifiers",
        )
    if sorted(metadata.labels) != sorted(first.labels):
        other = next((label for label in metadata.labels if label not in first.labels), None)
        reason = (
            f"{len(metadata.labels)} classes, not {len(first.labels)}" if other is None else f"the class '{other}'"
        )
        raise CheckpointError(f"network {number} has {reason}, unlike the first", "take networks of the same classes")
    mine, theirs = metadata.preprocess, first.preprocess
    if changed := [name for name in SEES if getattr(mine, name) != getattr(theirs, name)]:
        name = changed[0]
        raise CheckpointError(
            f"network {number} sees its pictures with {name.replace('_', ' ')} {getattr(mine, name)}, "
            f"the first with {getattr(theirs, name)}",
            "train them for the same input, or give --input-size where only the size differs",
        )


def _member(one: Checkpoint, first: ModelMetadata) -> Member:
    scale, shift = _renormalised(one.metadata.preprocess, first.preprocess)
    order = None
    if one.metadata.labels != first.labels:
        order = torch.tensor([one.metadata.labels.index(label) for label in first.labels])
    softmax = one.metadata.scores == "logits"
    return Member(one.module, softmax=softmax, scale=scale, shift=shift, order=order)


def _renormalised(mine: Preprocess, first: Preprocess) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Factor and offset that make the first member's normalised pixels this one's, float32 [channels, 1, 1]."""
    if (mine.mean, mine.std) == (first.mean, first.std):
        return None, None
    std, other = (np.asarray(spec.std, np.float64) for spec in (mine, first))
    mean, was = (np.asarray(spec.mean, np.float64) for spec in (mine, first))
    scale, shift = other / std, (was - mean) / std
    return tuple(torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1) for values in (scale, shift))  # type: ignore[return-value]
