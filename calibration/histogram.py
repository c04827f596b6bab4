"""A histogram of magnitudes that grows with its data, in fixed memory, whatever the outliers.

The bins are the floats themselves: the high 18 bits of a float32 without its sign are an exponent and ten
bits of mantissa, so that taking them as an index gives 1,024 bins an octave at the price of a shift. At the
top of the range that is as fine as the 2,048 linear bins that KL calibration uses; below it is finer, and so an
outlier a million times above the rest doesn't put the rest into one bin. The window covers 32 octaves below
the largest magnitude seen and moves up with it; what falls out at the bottom is counted as zero.

Counts depend neither on the order of the data nor on how it was cut into parts: histograms merge exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError

_MANTISSA_BITS = 10
_SHIFT = 23 - _MANTISSA_BITS
_OCTAVE = 1 << _MANTISSA_BITS
_OCTAVES = 32
_WINDOW = _OCTAVES * _OCTAVE
_SIGN = 1 << (31 - _SHIFT)
_CHUNK = 1 << 18
"""Elements a step: the codes and the counts stay in the processor's cache."""

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Counts of magnitudes, as the methods read them.

    Attributes:
        edges: float64 [n + 1], rising, from 0 to the largest magnitude.
        counts: int64 [n]; ``counts[i]`` magnitudes lie in ``[edges[i], edges[i + 1])``, the last one included.
        minimum, maximum: the smallest and the largest value seen, signed.
    """

    edges: Values
    counts: Counts
    minimum: float
    maximum: float

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return float(self.edges[-1])

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def linear(self, bins: int, limit: float | None = None) -> Values:
        """Counts in ``bins`` equal bins over ``[0, limit]``; a bin that straddles an edge is split by its width.

        Args:
            bins: how many.
            limit: the upper end; the largest magnitude unless given. Values above it are left out.

        Returns:
            float64 [bins].
        """
        limit = self.amax if limit is None else limit
        below = np.concatenate([[0.0], np.cumsum(self.counts, dtype=np.float64)])
        return np.diff(np.interp(np.linspace(0, limit, bins + 1), self.edges, below))


class GrowingHistogram:
    """Collects the magnitudes of float32 arrays in about 260 kB."""

    def __init__(self) -> None:
        self._counts = np.zeros(_WINDOW, np.int64)
        self._base = _OCTAVE  # the code of the first bin: a whole octave, above zero and the subnormal numbers
        self._zeros = 0
        self._minimum, self._maximum = np.inf, -np.inf

    def add(self, values: NDArray[Any], name: str = "a tensor") -> None:
        """Count every element of ``values`` (float32, C-contiguous, any shape).

        Raises:
            GraphError: a value is NaN or infinite; ``name`` is the tensor that the message names.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add(flat[start : start + _CHUNK], name)

    def merge(self, other: "GrowingHistogram") -> None:
        """Add what ``other`` has counted."""
        counts, base = other._counts, other._base
        if base > self._base:
            self._move(base)
        elif base < self._base:
            shift = min(self._base - base, _WINDOW)
            self._zeros += int(counts[:shift].sum())
            counts = np.concatenate([counts[shift:], np.zeros(shift, np.int64)])
        self._counts += counts
        self._zeros += other._zeros
        self._minimum, self._maximum = min(self._minimum, other._minimum), max(self._maximum, other._maximum)

    def freeze(self) -> Histogram:
        """The counts so far.

        Raises:
            ValueError: nothing was added.
        """
        if self._minimum > self._maximum:
            raise ValueError("an empty histogram has no range")
        amax = max(abs(self._minimum), abs(self._maximum))
        used = np.flatnonzero(self._counts)
        if not used.size:
            return Histogram(np.array([0.0, amax]), np.array([self._zeros]), self._minimum, self._maximum)
        first, last = int(used[0]), int(used[-1])
        codes = np.arange(self._base + first, self._base + last + 2, dtype=np.uint32)
        edges = (codes << _SHIFT).view(np.float32).astype(np.float64)
        edges[-1] = amax  # the last bin ends at the largest magnitude, which is known exactly
        return Histogram(
            np.concatenate([[0.0], edges]),
            np.concatenate([[self._zeros], self._counts[first : last + 1]]),
            self._minimum,
            self._maximum,
        )

    def _add(self, values: NDArray[np.float32], name: str) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            problem = "NaN" if np.isnan(low) or np.isnan(high) else "infinite"
            raise GraphError(
                f"'{name}' becomes {problem} on the calibration images",
                "check the graph with `toolkit verify` and the images with `toolkit predict`",
            )
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        top = int(np.float32(max(abs(low), abs(high))).view(np.uint32)) >> _SHIFT
        if top >= self._base + _WINDOW:
            self._move((top // _OCTAVE + 1) * _OCTAVE - _WINDOW)
        # Only the exponent and the high mantissa stay, with the sign above them: the negative half comes second.
        codes = values.view(np.uint32) >> np.uint32(_SHIFT)
        found = np.bincount(codes)
        before = self._counts.sum()
        for first in (self._base, self._base + _SIGN):
            part = found[first : first + _WINDOW]
            self._counts[: part.size] += part
        self._zeros += values.size - int(self._counts.sum() - before)

    def _move(self, base: int) -> None:
        """Move the window up; the bins below it become zeros."""
        shift = min(base - self._base, _WINDOW)
        self._zeros += int(self._counts[:shift].sum())
        self._counts[: _WINDOW - shift] = self._counts[shift:].copy()
        self._counts[_WINDOW - shift :] = 0
        self._base = base
