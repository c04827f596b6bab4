"""A plan's optimisation profiles: which shapes each covers, and which one serves a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ProfileRange:
    """The shapes of every input that one profile covers.

    Attributes:
        minimum, optimum, maximum: a shape an input, by name.
    """

    minimum: Mapping[str, Shape]
    optimum: Mapping[str, Shape]
    maximum: Mapping[str, Shape]

    def covers(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every input's shape lies within this profile."""
        return all(
            len(shape) == len(self.minimum[name])
            and all(
                low <= size <= high
                for low, size, high in zip(self.minimum[name], shape, self.maximum[name], strict=True)
            )
            for name, shape in shapes.items()
        )

    def distance(self, shapes: Mapping[str, Shape]) -> float:
        """How far the shapes are from what this profile is tuned for: the largest ratio of a size to its optimum."""
        ratios = [
            max(size / best, best / size)
            for name, shape in shapes.items()
            for size, best in zip(shape, self.optimum[name], strict=True)
        ]
        return max(ratios, default=1.0)


def choose_profile(profiles: Sequence[ProfileRange], shapes: Mapping[str, Shape]) -> int:
    """The number of the profile tuned nearest to ``shapes`` among those that cover them.

    Args:
        profiles: those of the engine, in its order.
        shapes: the shape of every input.

    Raises:
        InputError: none covers them; the message lists what is covered.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.covers(shapes)]
    if fitting:
        return min(fitting, key=lambda index: profiles[index].distance(shapes))
    given = "; ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    covered = " or ".join(
        ", ".join(f"{name} {list(profile.minimum[name])} to {list(profile.maximum[name])}" for name in shapes)
        for profile in profiles
    )
    raise InputError(
        f"the engine has no profile for {given}; it covers {covered}",
        "change the batch, or build the engine with another --batch MIN:OPT:MAX",
    )


def largest_batch(profiles: Sequence[ProfileRange]) -> int | None:
    """The largest first dimension that any profile takes; None when no input has one."""
    sizes = [shape[0] for profile in profiles for shape in profile.maximum.values() if shape]
    return max(sizes, default=None)
