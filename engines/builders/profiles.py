"""Optimisation profiles: the sizes between which an engine's dynamic dimensions may vary.

Written as ``MIN:OPT:MAX`` for the batch, or with names for several dimensions:
``batch=1:8:32,height=224:224:512``. A single number fixes a dimension.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import InputError
from engines.tensors import TensorSpec

BATCH = "batch"
_LARGEST = 2**31 - 1
_EXAMPLE = "write MIN:OPT:MAX, for example 1:8:32, or batch=1:8:32,height=224:224:512"

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Range:
    """Sizes of one dimension: the engine takes ``minimum`` to ``maximum`` and is tuned for ``optimum``."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        """Reject sizes out of order or out of range."""
        if not 1 <= self.minimum <= self.optimum <= self.maximum <= _LARGEST:
            raise InputError(f"{self} is not 1 ≤ MIN ≤ OPT ≤ MAX", _EXAMPLE)

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


@dataclass(frozen=True)
class Profile:
    """A range for each dynamic dimension, by the dimension's name."""

    ranges: Mapping[str, Range]

    def __str__(self) -> str:
        if set(self.ranges) == {BATCH}:
            return str(self.ranges[BATCH])
        return ",".join(f"{name}={sizes}" for name, sizes in self.ranges.items())

    def shapes(self, spec: TensorSpec) -> Shapes:
        """The smallest, the usual and the largest shape of an input.

        Raises:
            InputError: a dynamic dimension has no range here.
        """
        if missing := [size for size in spec.shape if isinstance(size, str) and size not in self.ranges]:
            raise InputError(
                f"input {spec} has a dynamic dimension '{missing[0]}' without a range",
                f"give one: --batch {self},{missing[0]}=MIN:OPT:MAX",
            )
        dimensions = [Range(size, size, size) if isinstance(size, int) else self.ranges[size] for size in spec.shape]
        return (
            tuple(sizes.minimum for sizes in dimensions),
            tuple(sizes.optimum for sizes in dimensions),
            tuple(sizes.maximum for sizes in dimensions),
        )


DEFAULT_PROFILE = Profile({BATCH: Range(1, 8, 32)})
"""What a graph with a dynamic batch is built for when nothing is asked."""


def parse_profile(text: str) -> Profile:
    """Parse ``1:8:32``, ``8`` or ``batch=1:8:32,height=224:224:512``.

    Raises:
        InputError: it isn't of that form, or sizes are out of order.
    """
    ranges: dict[str, Range] = {}
    for part in text.split(","):
        name, equals, sizes = part.strip().rpartition("=")
        name = name.strip() if equals else BATCH
        if not name or name in ranges or not re.fullmatch(r"\d{1,10}(:\d{1,10}:\d{1,10})?", sizes.strip(), re.ASCII):
            raise InputError(f"'{text}' is not a range of sizes", _EXAMPLE)
        numbers = [int(number) for number in sizes.split(":")]
        ranges[name] = Range(*(numbers if len(numbers) == 3 else numbers * 3))
    return Profile(ranges)


def parse_profiles(texts: Iterable[str]) -> tuple[Profile, ...]:
    """Parse several profiles, each as :func:`parse_profile` takes it.

    Raises:
        InputError: one of them isn't of that form.
    """
    return tuple(map(parse_profile, texts))


def fit_profiles(profiles: Sequence[Profile], inputs: Sequence[TensorSpec]) -> tuple[dict[str, Shapes], ...]:
    """The shapes of every input, for each profile.

    Args:
        profiles: what was asked for; nothing means :data:`DEFAULT_PROFILE` where a batch is dynamic.
        inputs: the graph's inputs.

    Returns:
        For each profile the input's name to its (min, opt, max) shapes; nothing for a graph with fixed shapes only.

    Raises:
        InputError: a dynamic dimension has no range, a range names a dimension that the graph doesn't have, or a
            batch was asked for that the graph's fixed one doesn't allow.
    """
    dynamic = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    for profile in profiles:
        for name, sizes in profile.ranges.items():
            if name not in dynamic and not _is_fixed_at(name, sizes, inputs):
                raise InputError(
                    f"no dimension '{name}' of the graph varies, for {sizes}; inputs: {'; '.join(map(str, inputs))}",
                    "export it with a dynamic batch: `toolkit export` does" if name == BATCH else "check the name",
                )
    if not dynamic:
        return ()
    asked = profiles or (DEFAULT_PROFILE,)
    return tuple({spec.name: profile.shapes(spec) for spec in inputs} for profile in asked)


def _is_fixed_at(name: str, sizes: Range, inputs: Sequence[TensorSpec]) -> bool:
    """Whether a batch is asked for that is the fixed one anyway."""
    return name == BATCH and all(spec.shape and sizes.minimum == sizes.maximum == spec.shape[0] for spec in inputs)


def profiles_json(fitted: Sequence[Mapping[str, Shapes]]) -> tuple[dict[str, Any], ...]:
    """Fitted profiles as a passport holds them."""
    return tuple({name: [list(shape) for shape in shapes] for name, shapes in item.items()} for item in fitted)
