"""The whole range: nothing is clipped."""

from calibration.histogram import Histogram


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen."""
    return histogram.amax
