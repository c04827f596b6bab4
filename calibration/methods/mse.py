"""The range with the least squared error between the values and their quantised ones."""

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram, Values

LEVELS = 127
"""Steps from 0 to the range in 8 symmetric bits."""

_COARSE = 96
_FINE = 33
_WIDEST = 24.0
"""Candidate ranges go down to 2^-24 of the largest magnitude."""


def mse(histogram: Histogram) -> float:
    """The magnitude whose 8-bit symmetric quantisation has the least mean squared error.

    Candidates lie on a logarithmic grid, four an octave, and then thirty-two an octave around the best.

    Returns:
        A range in ``(0, histogram.amax]``; ``histogram.amax`` where everything is zero.
    """
    if histogram.amax <= 0:
        return histogram.amax
    coarse = histogram.amax * 2.0 ** -np.linspace(0, _WIDEST, _COARSE + 1)
    best = coarse[int(np.argmin(squared_errors(histogram, coarse)))]
    step = _WIDEST / _COARSE
    fine = np.minimum(best * 2.0 ** np.linspace(step, -step, _FINE), histogram.amax)
    return float(fine[int(np.argmin(squared_errors(histogram, fine)))])


def squared_errors(histogram: Histogram, ranges: NDArray[np.float64]) -> Values:
    """The summed squared error of each of ``ranges``: float64 of the same length.

    Every bin counts as its middle. The error of a level is the second moment of its values about it, taken from
    cumulative moments, so that a candidate costs one look-up a level whatever the number of bins.
    """
    middle = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    middle[0] = 0.0 if len(middle) > 1 else middle[0]  # the first bin holds zeros, and what is as good as zero
    counts = histogram.counts.astype(np.float64)
    moments = [np.concatenate([[0.0], np.cumsum(counts * middle**power)]) for power in (0, 1, 2)]

    steps = ranges / LEVELS
    levels = np.arange(LEVELS + 1)
    # Level k takes the values from (k - 1/2) to (k + 1/2) steps, the last one everything above.
    borders = np.searchsorted(middle, (levels[1:] - 0.5)[None, :] * steps[:, None])
    ends = np.full((len(ranges), 1), len(middle))
    borders = np.concatenate([np.zeros_like(ends), borders, ends], axis=1)
    zeroth, first, second = (np.diff(moment[borders], axis=1) for moment in moments)
    centre = levels[None, :] * steps[:, None]
    return np.asarray((second - 2 * centre * first + centre**2 * zeroth).sum(axis=1))
