"""How far two sets of logits are apart, and how sure a share is: pure numpy, computed in float64."""

from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engines.errors import InputError

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A share and the interval in which it lies with a given confidence.

    Attributes:
        share: successes / total, in [0, 1].
        low, high: the interval's bounds, in [0, 1].
        total: the number of trials.
    """

    share: float
    low: float
    high: float
    total: int

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a binomial share.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927). Unlike the normal approximation it stays inside [0, 1] and is good for shares near 1.

    Args:
        successes: 0..total.
        total: trials, at least 1.
        confidence: of the two-sided interval, in (0, 1).

    Returns:
        Lower and upper bound.

    Raises:
        InputError: the numbers are out of range.
    """
    if total < 1 or not 0 <= successes <= total or not 0 < confidence < 1:
        raise InputError(
            f"no interval for {successes} of {total} at confidence {confidence}", "give at least one sample"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5
    scale = 1 + z * z / total
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (0.0 if successes == 0 else low), (1.0 if successes == total else high)


def agreement(reference: ArrayLike, other: ArrayLike, confidence: float = 0.95) -> Interval:
    """The share of rows whose largest logit is the same, with its Wilson interval.

    Args:
        reference: logits [N, classes].
        other: logits of the same shape.
        confidence: of the interval.
    """
    first, second = _pair(reference, other)
    same = int(np.count_nonzero(first.argmax(1) == second.argmax(1)))
    return Interval(same / len(first), *wilson_interval(same, len(first), confidence), total=len(first))


def accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """The share of rows whose label is among the ``k`` largest logits; ties go to the lower index.

    Args:
        logits: [N, classes].
        labels: [N], class indices.
        k: 1 for top-1.
    """
    scores, wanted = np.asarray(logits, np.float64), np.asarray(labels)
    if scores.ndim != 2 or wanted.shape != scores.shape[:1] or not len(scores):
        raise InputError(f"logits {scores.shape} and labels {wanted.shape} don't fit", "give one label a row")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean((best == wanted[:, None]).any(1)))


def max_abs(reference: ArrayLike, other: ArrayLike) -> float:
    """The largest absolute difference of two arrays of one shape; NaN if either holds one."""
    first, second = _pair(reference, other, dimensions=None)
    return float(np.abs(first - second).max())


def snr_db(reference: ArrayLike, other: ArrayLike) -> float:
    """The signal-to-noise ratio in dB: ``10 log10(sum(reference**2) / sum((reference - other)**2))``.

    Infinite where the two are equal. With a quantised ``other`` it is the SQNR.
    """
    first, second = _pair(reference, other, dimensions=None)
    noise = float(np.square(first - second).sum())
    if noise == 0:
        return float("inf")
    signal = float(np.square(first).sum())
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def kl_divergence(reference: ArrayLike, other: ArrayLike) -> float:
    """The mean over rows of KL(softmax(reference) || softmax(other)), in nats.

    Args:
        reference: logits [N, classes].
        other: logits of the same shape.
    """
    first, second = (log_softmax(logits) for logits in _pair(reference, other))
    return float(max(0.0, (np.exp(first) * (first - second)).sum(1).mean()))


def log_softmax(logits: ArrayLike) -> Array64:
    """The logarithm of the softmax along the last axis, in float64, without overflow."""
    scores = np.asarray(logits, np.float64)
    shifted = scores - scores.max(-1, keepdims=True)
    result: Array64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def margin(logits: ArrayLike) -> Array64:
    """The distance between the largest and the second largest logit of each row; infinite for one class."""
    scores = np.asarray(logits, np.float64)
    if scores.shape[1] < 2:
        return np.full(len(scores), np.inf)
    top = np.partition(scores, -2, axis=1)[:, -2:]
    result: Array64 = top[:, 1] - top[:, 0]
    return result


def _pair(reference: ArrayLike, other: ArrayLike, dimensions: int | None = 2) -> tuple[Array64, Array64]:
    first, second = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape or not first.size or dimensions not in {None, first.ndim}:
        raise InputError(
            f"arrays of shapes {first.shape} and {second.shape} can't be compared", "give two of one shape"
        )
    return first, second
