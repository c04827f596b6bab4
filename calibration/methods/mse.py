"""The range with the least squared error between the values and their quantised ones."""

import numpy as np
from numpy.typing import NDArray

from calibration.e4m3 import levels as e4m3_levels
from calibration.histogram import Histogram, Values

INT8_LEVELS = np.arange(128) / 127
"""What 8 symmetric bits hold of a range from 0 to 1."""

FP8_LEVELS = e4m3_levels() / e4m3_levels()[-1]
"""What e4m3 holds of a range from 0 to 1: seven subnormal steps, then eight levels an octave."""

_COARSE = 96
_FINE = 33
_WIDEST = 24.0
"""Candidate ranges go down to 2^-24 of the largest magnitude."""

_FP8_AN_OCTAVE = 32


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


def mse_fp8(histogram: Histogram) -> float:
    """The magnitude for which e4m3, scaled so that this is its largest number, has the least mean squared error.

    A floating-point number's error hardly depends on the range, but for what is clipped and what becomes subnormal,
    and it has a minimum an octave, where many values meet levels. So candidates lie thirty-two an octave
    everywhere. Of equal errors the widest range is taken.

    Returns:
        A range in ``(0, histogram.amax]``; ``histogram.amax`` where everything is zero.
    """
    if histogram.amax <= 0:
        return histogram.amax
    steps = np.arange(round(_WIDEST * _FP8_AN_OCTAVE) + 1)
    ranges = histogram.amax * 2.0 ** (-steps / _FP8_AN_OCTAVE)
    return float(ranges[int(np.argmin(squared_errors(histogram, ranges, FP8_LEVELS)))])


def squared_errors(
    histogram: Histogram, ranges: NDArray[np.float64], levels: NDArray[np.float64] = INT8_LEVELS
) -> Values:
    """The summed squared error of each of ``ranges``: float64 of the same length.

    Every bin counts as its middle. The error of a level is the second moment of its values about it, taken from
    cumulative moments, so that a candidate costs one look-up a level whatever the number of bins.

    Args:
        histogram: the magnitudes.
        ranges: candidates, float64 [n].
        levels: what a range of 1 is quantised to, float64, rising from 0 to 1; values go to the nearest.
    """
    middle = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    middle[0] = 0.0 if len(middle) > 1 else middle[0]  # the first bin holds zeros, and what is as good as zero
    counts = histogram.counts.astype(np.float64)
    moments = [np.concatenate([[0.0], np.cumsum(counts * middle**power)]) for power in (0, 1, 2)]

    # A level takes the values from half-way below it to half-way above it, the last one everything above.
    halfway = (levels[1:] + levels[:-1]) / 2
    borders = np.searchsorted(middle, halfway[None, :] * ranges[:, None])
    ends = np.full((len(ranges), 1), len(middle))
    borders = np.concatenate([np.zeros_like(ends), borders, ends], axis=1)
    zeroth, first, second = (np.diff(moment[borders], axis=1) for moment in moments)
    centre = levels[None, :] * ranges[:, None]
    return np.asarray((second - 2 * centre * first + centre**2 * zeroth).sum(axis=1))
