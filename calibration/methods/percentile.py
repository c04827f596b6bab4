"""The range that holds a given share of the values."""

import numpy as np

from calibration.histogram import Histogram

DEFAULT_SHARE = 0.9999
"""One value in ten thousand is clipped."""


def percentile(histogram: Histogram, share: float = DEFAULT_SHARE) -> float:
    """The magnitude that ``share`` of all values don't exceed.

    Args:
        histogram: what was collected; zeros count as values.
        share: in (0, 1].

    Returns:
        The quantile of the magnitudes, interpolated inside its bin; never 0 unless every value is.

    Raises:
        ValueError: ``share`` is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is outside (0, 1]")
    wanted = share * histogram.total
    below = np.cumsum(histogram.counts)
    index = int(np.searchsorted(below, wanted))
    if index >= len(below) - 1 and wanted >= below[-1]:
        return histogram.amax
    start = float(below[index - 1]) if index else 0.0
    inside = (wanted - start) / float(histogram.counts[index])
    low, high = histogram.edges[index], histogram.edges[index + 1]
    return float(low + inside * (high - low)) or histogram.amax
