"""Which batches a server may make for an engine."""

from collections.abc import Mapping
from dataclasses import dataclass

from engines.errors import InputError
from engines.tensors import TensorSpec
from toolkit.packaging.model import Model

DEFAULT_BATCH = 32
"""The largest batch for a graph, which takes any: where throughput has flattened out on most devices."""

UNNAMED = "?"
"""What a dimension is called that varies and has no name."""


@dataclass(frozen=True)
class Batches:
    """The batches that an engine takes.

    Attributes:
        largest: samples a run at most, from 1 on; 0 where requests come with the whole shape, because the batch is
            fixed, doesn't begin at 1, or isn't known to be one.
        preferred: sizes that several profiles were tuned for, and the largest; empty for fewer than two profiles:
            a server that prefers a size makes no larger batch while it can make that one.
        only: the one batch that a plan takes although its first dimension varies; 0 for all else.
        reason: why ``largest`` is 0; "" where it isn't.
    """

    largest: int
    preferred: tuple[int, ...] = ()
    only: int = 0
    reason: str = ""


def batches_of(model: Model, wanted: int | None = None) -> Batches:
    """The batches that ``model`` takes.

    Args:
        model: the engine.
        wanted: the largest batch that is asked for; None for the engine's own, or 32 for a graph, which takes any.

    Raises:
        InputError: the engine takes no batch of ``wanted``, or it isn't known which it takes.
    """
    reason = _not_batched((*model.inputs, *model.outputs))
    if not reason and model.kind == "graph":
        return Batches(wanted or DEFAULT_BATCH)
    if not reason and not model.profiles:
        if wanted is None:
            raise InputError(
                f"which batches '{model.path}' takes isn't known without its passport",
                "copy the passport that was built with it, or give the largest batch with --max-batch",
            )
        return Batches(wanted)
    ranges = [] if reason else _ranges(model)
    reach = _reach(ranges)
    only = 0
    if not reason and reach == 0:
        sizes = {size for least, _, most in ranges for size in (least, most)}
        only = sizes.pop() if len(sizes) == 1 else 0
        takes = f"batches of {only} alone" if only else f"no batch below {min(sizes)}"
        reason = f"the engine takes {takes}, and a server's batches may be of any size"
    if reason:
        if wanted is not None:
            raise InputError(f"--max-batch {wanted} can't be met: {reason}", "leave it out, or build with --batch")
        return Batches(0, only=only, reason=reason)
    if wanted is not None and wanted > reach:
        raise InputError(
            f"'{model.path}' takes batches of 1 to {reach}, not {wanted}",
            f"give --max-batch {reach} or less, or build it for more with --batch",
        )
    largest = wanted or reach
    tuned = {opt for _, opt, _ in ranges if opt < largest} if len(ranges) > 1 else set()
    return Batches(largest, (*sorted(tuned), largest) if tuned else ())


def whole_shapes(model: Model, which: int) -> Mapping[str, tuple[int, ...]] | None:
    """A shape for every input, batch included: fixed ones, else the profiles' [min, opt, max] number ``which``.

    The least of all profiles for 0, the first's for 1, the largest for 2; None where a size isn't known.
    """
    chosen: dict[str, tuple[int, ...]] = {}
    for spec in model.inputs:
        fixed = tuple(size for size in spec.shape if isinstance(size, int))
        shapes = [tuple(profile[spec.name][which]) for profile in model.profiles if spec.name in profile]
        if len(fixed) == len(spec.shape):
            chosen[spec.name] = fixed
        elif shapes:
            chosen[spec.name] = min(shapes) if which == 0 else max(shapes) if which == 2 else shapes[0]
        else:
            return None
    return chosen


def _not_batched(specs: tuple[TensorSpec, ...]) -> str:
    """Why the first dimension isn't one batch of all tensors; "" where it is."""
    names = set()
    for spec in specs:
        if not spec.shape or isinstance(spec.shape[0], int):
            return f"the first dimension of {spec} is fixed"
        names.add(spec.shape[0])
    if len(names - {UNNAMED}) > 1:
        return f"the first dimensions have different names: {', '.join(sorted(map(str, names)))}"
    return ""


def _ranges(model: Model) -> list[tuple[int, int, int]]:
    """Least, best and largest batch of each profile."""
    found = []
    for profile in model.profiles:
        least, best, most = ([int(shapes[place][0]) for shapes in profile.values()] for place in range(3))
        found.append((max(least), min(best), min(most)))
    return found


def _reach(ranges: list[tuple[int, int, int]]) -> int:
    """The largest batch up to which every size from 1 on is in some range; 0 where 1 is in none."""
    reach = 0
    for least, _, most in sorted(ranges):
        if least > reach + 1:
            break
        reach = max(reach, most)
    return reach
