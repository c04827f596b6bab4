"""Two classifiers on the same images: how far their accuracies are apart, and whether by more than chance.

Only the images that exactly one of the two gets right tell anything; what both get right or wrong says
nothing of which is better. Intervals for two separate samples would be much too wide here.
"""

import math
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)
_HALVINGS = 80
_NEGLIGIBLE = 1e-18


def paired_interval(only_first: int, only_second: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of the difference of two paired proportions, first minus second.

    The differences that the score test doesn't reject at 5 %. It keeps its confidence where the usual
    normal approximation fails: few discordant pairs, and none at all.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998), equations 9 to 12.

    Args:
        only_first: images that only the first gets right.
        only_second: images that only the second gets right.
        total: all images, at least 1.

    Returns:
        Lower and upper bound, in [-1, 1].
    """
    return -_upper(only_second, only_first, total), _upper(only_first, only_second, total)


def _upper(only_first: int, only_second: int, total: int) -> float:
    """The largest difference that is not rejected, by bisection: beyond the estimate the score only falls."""
    low, high = (only_first - only_second) / total, 1.0
    if not _rejected(high, only_first, only_second, total):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _rejected(middle, only_first, only_second, total):
            high = middle
        else:
            low = middle
    return low


def _rejected(difference: float, only_first: int, only_second: int, total: int) -> bool:
    """Whether the score test rejects a true difference; |score| > z, free of the division.

    ``second`` is the likeliest probability of "only the second is right" under that difference: the larger
    root of a quadratic (Tango's equation 12).
    """
    a = 2 * total
    b = -only_first - only_second + (2 * total - only_first + only_second) * difference
    c = -only_second * difference * (1 - difference)
    second = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = total * max(0.0, 2 * second + difference * (1 - difference))
    return bool((only_first - only_second - total * difference) ** 2 > _Z * _Z * variance)


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test: how probable so uneven a split is if both are equally good.

    Each image that only one gets right is then a toss of a fair coin. The binomial tail is summed from its
    largest term down, so that any number of tosses takes about its square root of steps.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947); the exact form.

    Args:
        only_first: images that only the first gets right.
        only_second: images that only the second gets right.
    """
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    largest = math.lgamma(tosses + 1) - math.lgamma(fewer + 1) - math.lgamma(tosses - fewer + 1)
    term = tail = 1.0
    for heads in range(fewer, 0, -1):
        term *= heads / (tosses - heads + 1)
        tail += term
        if term < _NEGLIGIBLE:
            break
    return min(1.0, 2 * tail * math.exp(largest - tosses * math.log(2)))
