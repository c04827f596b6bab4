"""The range whose quantised distribution says most about the original: least Kullback-Leibler divergence.

S. Migacz, "8-bit Inference with TensorRT", GTC 2017. A candidate range is divided into equal bins: P is the
distribution over them with all that lies above added to the last one; Q is the same bins without what lies above,
merged into 128 levels and spread again over the bins that weren't empty. The range with the least KL(P‖Q) wins.
The bin at zero is given the count of its neighbour, as is common: after a ReLU most values are zero, zero is exact
in every range, and its weight would only favour narrow ranges.

The description takes its candidates as 128 … 2,048 of the 2,048 bins over the whole range. One outlier stretches
those bins until the rest of the distribution lies in a few of them, and then no candidate is right. Here
every octave of candidate ranges has its own 2,048 bins, so that each candidate is judged with 8 to 16 bins a
level, however far it lies below the largest value. On distributions without outliers both give the same range.

All candidates of an octave are evaluated at once from cumulative sums: O(bins + candidates · levels) in place of
O(candidates · bins).
"""

import numpy as np

from calibration.histogram import Histogram, Values

BINS = 2048
LEVELS = 128
CLIPPED = 0.01
"""What is more frequent than this is no outlier. Without the limit a distribution that is far from zero, such as
that of a ReLU behind a large bias, would be clipped whole: P and Q agree when both have nothing but a last bin."""


def entropy(histogram: Histogram) -> float:
    """The magnitude at which clipping loses the least information in 8 symmetric bits.

    Ranges that clip more than :data:`CLIPPED` of the values that aren't zero are no candidates, nor are those that
    round half of them to zero where even the bins can't tell them from it.

    Returns:
        A range in ``(0, histogram.amax]``; ``histogram.amax`` where everything is zero.
    """
    best, least = histogram.amax, np.inf
    median, narrowest = _quantile(histogram, 0.5), _quantile(histogram, 1 - CLIPPED)
    limit = histogram.amax
    while limit > narrowest:
        if median > limit / BINS:
            bins = histogram.linear(BINS, limit)
            above = max(float(histogram.total - bins.sum()), 0.0)
            bins[0] = bins[1]
            ranges = limit * np.arange(BINS // 2 + 1, BINS + 1) / BINS
            divergences = np.where(ranges >= narrowest, kl_divergences(bins, above, BINS // 2 + 1), np.inf)
            # Of equal divergences the widest range is taken: it clips least.
            index = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
            if divergences[index] < least:
                best, least = float(ranges[index]), float(divergences[index])
        limit /= 2
    return best


def kl_divergences(bins: Values, above: float = 0.0, first: int = LEVELS) -> Values:
    """KL(P‖Q) of every candidate range.

    Args:
        bins: float64 [n] counts, ``n`` ≥ ``first``.
        above: how many values lie above the last bin.
        first: the bins of the narrowest candidate, at least :data:`LEVELS`.

    Returns:
        float64 [n - first + 1]: the divergence of clipping after ``first``, ``first`` + 1, … ``n`` bins, in nats;
        infinite where values are clipped into a last bin that was empty, since Q can't say anything of it.
    """
    n = len(bins)
    sizes = np.arange(first, n + 1)
    mass = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0], np.cumsum(bins > 0)])
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.concatenate([[0.0], np.cumsum(np.where(bins > 0, bins * np.log(bins), 0.0))])

        # Level j of a range of i bins holds the bins from floor(j i / LEVELS) on.
        borders = np.arange(LEVELS + 1)[None, :] * sizes[:, None] // LEVELS
        level_mass = np.diff(mass[borders], axis=1)
        level_filled = np.diff(filled[borders], axis=1)
        spread = np.where(level_mass > 0, np.log(level_mass / level_filled), 0.0)

        last = bins[sizes - 1]
        clipped = mass[n] - mass[sizes] + above
        kept = mass[sizes]
        last_p = last + clipped
        # sum P log P with the clipped mass in the last bin
        entropy_p = own[sizes] - np.where(last > 0, last * np.log(last), 0.0)
        entropy_p += np.where(last_p > 0, last_p * np.log(last_p), 0.0)
        # sum P log Q: within a level every filled bin has the same Q
        cross = (level_mass * spread).sum(axis=1) + clipped * spread[:, -1]
        total = kept + clipped
        result: Values = (entropy_p - cross) / total - np.log(total) + np.log(kept)
    result[(last <= 0) & (clipped > 0)] = np.inf
    result[~np.isfinite(result)] = np.inf
    return result


def _quantile(histogram: Histogram, share: float) -> float:
    """The magnitude that ``share`` of the values that aren't zero don't exceed: the lower edge of its bin."""
    counts = histogram.counts.copy()
    if len(counts) > 1:
        counts[0] = 0
    below = np.cumsum(counts)
    return float(histogram.edges[int(np.searchsorted(below, share * below[-1]))])
