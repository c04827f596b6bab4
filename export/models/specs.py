"""The table of the networks: what each is called, where its class is, and what pictures it takes. No torch here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engines.preprocess import Preprocess


@dataclass(frozen=True)
class ArchitectureSpec:
    """One network of the registry.

    Attributes:
        name: what ``--architecture`` takes.
        factory: ``module:Class``; the class takes ``(classes, channels, **options)``.
        preprocess: input size, channels and normalisation that a checkpoint without metadata is given.
        description: one line.
        options: what the class is given beside the numbers of classes and channels.
        tensors: how many its state dict has, without counters and ``training_only`` parts; a state dict of another
            number isn't compared with it. None compares always.
        training_only: names of the parts that only training runs, which a state dict may lack.
    """

    name: str
    factory: str
    preprocess: Preprocess
    description: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tensors: int | None = None
    training_only: tuple[str, ...] = ()


_GREY = Preprocess(224, 224, channels=1, resize="stretch", mean=(0.0,), std=(1.0,))
_DIGITS = Preprocess(28, 28, channels=1, resize="stretch", mean=(0.0,), std=(1.0,))
_HALF = Preprocess(224, 224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What torchvision's GoogLeNet sees: its ``transform_input`` undoes ImageNet's normalisation."""


def _vggs() -> Iterator[ArchitectureSpec]:
    for depth in (11, 13, 16, 19):
        for suffix, batch_norm in (("", False), ("-bn", True)):
            convolutions = depth - 3
            yield ArchitectureSpec(
                f"vgg{depth}{suffix}",
                "export.models.vgg:VGG",
                Preprocess(224, 224),
                f"VGG with {depth} weighted layers{' and batch normalisation' * batch_norm}",
                {"depth": depth, "batch_norm": batch_norm},
                2 * depth + 4 * convolutions * batch_norm,
            )


def _resnets() -> Iterator[ArchitectureSpec]:
    for depth, tensors in ((18, 102), (34, 182), (50, 267), (101, 522), (152, 777)):
        yield ArchitectureSpec(
            f"resnet{depth}",
            "export.models.resnet:ResNet",
            Preprocess(224, 224),
            f"ResNet with {depth} weighted layers{', stride in the 3×3' * (depth > 34)}",
            {"depth": depth},
            tensors,
        )


ARCHITECTURES: Mapping[str, ArchitectureSpec] = {
    spec.name: spec
    for spec in (
        ArchitectureSpec(
            "lenet",
            "export.models.lenet:LeNet",
            _DIGITS,
            "LeNet for greyscale 28×28: sigmoids, average pooling, flat Sequential",
            tensors=10,
        ),
        ArchitectureSpec(
            "alexnet",
            "export.models.alexnet:AlexNet",
            Preprocess(224, 224),
            "torchvision's AlexNet: 64-192-384-256-256, adaptive 6×6 pool",
            tensors=16,
        ),
        ArchitectureSpec(
            "alexnet-2012",
            "export.models.alexnet:AlexNet2012",
            Preprocess(227, 227, crop_fraction=227 / 256),
            "the paper's AlexNet: two groups, local response normalisation, 227×227",
            tensors=16,
        ),
        ArchitectureSpec(
            "alexnet-single",
            "export.models.alexnet:AlexNetSingle",
            Preprocess(227, 227, crop_fraction=227 / 256),
            "one tower of the paper's widths, no LRN, 227×227 (conv1 … lostlayer)",
            tensors=16,
        ),
        ArchitectureSpec(
            "alexnet-d2l",
            "export.models.alexnet:AlexNetD2L",
            _GREY,
            "flat Sequential for greyscale 224×224",
            tensors=16,
        ),
        *_vggs(),
        ArchitectureSpec(
            "googlenet",
            "export.models.googlenet:GoogLeNet",
            _HALF,
            "GoogLeNet: Inception blocks, auxiliary heads in training",
            tensors=287,
            training_only=("aux1", "aux2"),
        ),
        *_resnets(),
    )
}
