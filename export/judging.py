"""One output of a graph against float64 PyTorch: distance, noise, and what is wrong (the rules of export.verify)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.metrics import margin, snr_db
from export.verification import MULTIPLE, Measurement

UNITS = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""A unit in the last place of 1.0, by precision."""


def is_discrete(values: NDArray[Any]) -> bool:
    """Whether an output holds integers or booleans, which are equal or not."""
    return values.dtype.kind in "iub"


def least_noise(expected: NDArray[Any], precision: str) -> float:
    """What the noise floor of an output is never taken below.

    Args:
        expected: float64 PyTorch's.
        precision: a key of :data:`UNITS`.

    Returns:
        A unit in the last place of the largest value; of integers so little that one that differs is too many.
    """
    if is_discrete(expected):
        return 1 / (2 * MULTIPLE * max(expected.size, 1))
    return max(float(np.abs(expected).max()) * UNITS[precision], float(np.finfo(np.float32).tiny))


def distance_of(expected: NDArray[Any], values: NDArray[Any]) -> float:
    """The largest absolute difference of floats; of integers and booleans the share of elements that differ."""
    if is_discrete(expected):
        return float(np.mean(expected != values))
    return float(np.abs(values.astype(np.float64) - expected).max())


def judge(
    kind: str, expected: NDArray[Any], found: NDArray[Any], noise: float, *, output: str = "", scores: bool = True
) -> tuple[list[str], list[Measurement]]:
    """Problems and the measurement of one output of one batch.

    Args:
        kind: of input.
        expected: float64 PyTorch's.
        found: the graph's.
        noise: its noise floor.
        output: its name; empty for a network with one, whose name says nothing.
        scores: whether it holds a classifier's scores, so that its top-1 is judged too.
    """
    batch = len(expected)
    where = f"{kind} inputs, a batch of {batch}" + (f", {output}" if output else "")
    if found.shape != expected.shape:
        return [f"{where}: the graph gives {list(found.shape)}, PyTorch {list(expected.shape)}"], []
    if is_discrete(expected) != is_discrete(found):
        return [f"{where}: the graph gives {found.dtype.name}, PyTorch {expected.dtype.name}"], []
    if not np.isfinite(found).all():
        return [f"{where}: the graph gives NaN or infinity"], []
    distance = distance_of(expected, found)
    if is_discrete(expected):
        what = f"{int(np.count_nonzero(expected != found))} of {expected.size} elements differ from float64 PyTorch"
        wrong = [f"{where}: {what}, more than rounding explains"] if distance > MULTIPLE * noise else []
        return wrong, [Measurement(kind, batch, distance, noise, None, 0, 0, output)]
    values = found.astype(np.float64)
    snr = snr_db(expected, values)
    flips = failures = 0
    if scores:
        flipped = values.argmax(1) != expected.argmax(1)
        flips = int(np.count_nonzero(flipped))
        failures = int(np.count_nonzero(flipped & (margin(expected) > 2 * noise)))
    problems = []
    if distance > MULTIPLE * noise:
        problems.append(
            f"{where}: {distance:.2e} from float64 PyTorch, {distance / noise:.1f} noise floors of {noise:.2e}; "
            f"{MULTIPLE:g} are allowed"
        )
    if failures:
        problems.append(f"{where}: the top-1 of {failures} differs, by more than the noise")
    return problems, [
        Measurement(kind, batch, distance, noise, snr if np.isfinite(snr) else None, flips, failures, output)
    ]
