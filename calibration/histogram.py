"""A histogram of magnitudes that grows with its data, in fixed memory, whatever the outliers.

The bins are the floats themselves: the high 18 bits of a float32 without its sign are an exponent and ten
bits of mantissa, so that taking them as an index gives 1,024 bins an octave at the price of a shift. At the
top of the range that is as fine as the 2,048 linear bins that KL calibration uses; below it is finer, and so an
outlier a million times above the rest doesn't put the rest into one bin. The window covers 32 octaves below
the largest magnitude seen and moves up with it; what falls out at the bottom is counted as zero.

Counts depend neither on the order of the data nor on how it was cut into parts: histograms merge exactly, and pieces
may be counted in several threads at once. numpy gives up Python's lock in all of it but the search for the largest
index that begins ``bincount``, a fifth of the time.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError

_MANTISSA_BITS = 10
_SHIFT = 23 - _MANTISSA_BITS
_OCTAVE = 1 << _MANTISSA_BITS
_OCTAVES = 32
_WINDOW = _OCTAVES * _OCTAVE
_MAGNITUDE = 0x7FFFFFFF
_PIECE = 1 << 19
"""Elements a step: enough to be worth a table of 2^18 counts, few enough to share out between threads."""

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


class State(NamedTuple):
    """All that a :class:`GrowingHistogram` knows, to be kept in a file.

    Attributes:
        first: the index of the first of ``counts``; a float32's bits shifted to the right.
        counts: int64, without the empty bins at both ends.
        total: how many values were counted; those that aren't in ``counts`` were zero, or too small for the window.
        minimum, maximum: the smallest and the largest value; infinity and its negative where there was none.
    """

    first: int
    counts: Counts
    total: int
    minimum: float
    maximum: float


class _Scratch(threading.local):
    """What each thread works in: fresh memory for each piece would cost time."""

    def __init__(self) -> None:
        self.codes, self.magnitudes = np.empty(0, np.int64), np.empty(0, np.uint32)

    def take(self, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        if self.codes.size < size:
            self.codes, self.magnitudes = np.empty(size, np.int64), np.empty(size, np.uint32)
        return self.codes[:size], self.magnitudes[:size]


_SCRATCH = _Scratch()


def pieces(values: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """``values`` as flat float32 arrays of a size that is worth a step of :meth:`GrowingHistogram.add`."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]


class GrowingHistogram:
    """Collects the magnitudes of float32 arrays in about 260 kB; threads may add to one at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = np.zeros(_WINDOW, np.int64)
        self._base = _OCTAVE  # the code of the first bin: a whole octave, above zero and the subnormal numbers
        self._total = 0
        self._minimum, self._maximum = np.inf, -np.inf

    def add(self, values: NDArray[Any], name: str = "a tensor") -> None:
        """Count every element of ``values`` (float32, C-contiguous, any shape).

        Raises:
            GraphError: a value is NaN or infinite; ``name`` is the tensor that the message names.
        """
        for piece in pieces(values):
            self._add(piece, name)

    def merge(self, other: "GrowingHistogram") -> None:
        """Add what ``other`` has counted."""
        counts, base = other._counts, other._base
        if base > self._base:
            self._move(base)
        elif base < self._base:
            shift = min(self._base - base, _WINDOW)
            counts = np.concatenate([counts[shift:], np.zeros(shift, np.int64)])
        self._counts += counts
        self._total += other._total
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
        zeros = self._total - int(self._counts.sum())
        if not used.size:
            return Histogram(np.array([0.0, amax]), np.array([zeros]), self._minimum, self._maximum)
        first, last = int(used[0]), int(used[-1])
        codes = np.arange(self._base + first, self._base + last + 2, dtype=np.uint32)
        edges = (codes << _SHIFT).view(np.float32).astype(np.float64)
        edges[-1] = amax  # the last bin ends at the largest magnitude, which is known exactly
        return Histogram(
            np.concatenate([[0.0], edges]),
            np.concatenate([[zeros], self._counts[first : last + 1]]),
            self._minimum,
            self._maximum,
        )

    @property
    def state(self) -> State:
        """What it knows so far; :meth:`restored` makes an equal histogram of it."""
        used = np.flatnonzero(self._counts)
        first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        counts = self._counts[first:stop].copy()
        return State(self._base + first, counts, self._total, self._minimum, self._maximum)

    @classmethod
    def restored(cls, state: State) -> "GrowingHistogram":
        """The histogram that ``state`` was taken from."""
        histogram = cls()
        if state.minimum <= state.maximum:
            histogram._minimum, histogram._maximum = state.minimum, state.maximum
            histogram._total = state.total
            histogram._hold(_code(state.minimum, state.maximum))
            start = state.first - histogram._base
            histogram._counts[start : start + state.counts.size] = state.counts
        return histogram

    def _add(self, values: NDArray[np.float32], name: str) -> None:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise not_finite(name, high if np.isfinite(low) else low)
        bits = values.view(np.uint32)
        codes, magnitudes = _SCRATCH.take(values.size)
        if low < 0:
            bits = np.bitwise_and(bits, np.uint32(_MAGNITUDE), out=magnitudes)
        # Only the exponent and the high mantissa stay. What is -0.0 among positive values goes beyond every window.
        found = np.bincount(np.right_shift(bits, np.uint32(_SHIFT), out=codes))
        with self._lock:
            self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
            self._hold(_code(low, high))
            part = found[self._base : self._base + _WINDOW]
            self._counts[: part.size] += part
            self._total += values.size

    def _hold(self, top: int) -> None:
        """See to it that the window reaches the index ``top``."""
        if top >= self._base + _WINDOW:
            self._move((top // _OCTAVE + 1) * _OCTAVE - _WINDOW)

    def _move(self, base: int) -> None:
        """Move the window up; the bins below it become zeros."""
        shift = min(base - self._base, _WINDOW)
        self._counts[: _WINDOW - shift] = self._counts[shift:].copy()
        self._counts[_WINDOW - shift :] = 0
        self._base = base


def not_finite(name: str, value: float) -> GraphError:
    """The error for a tensor that holds ``value``, which is NaN or infinite."""
    return GraphError(
        f"'{name}' becomes {'NaN' if np.isnan(value) else 'infinite'} on the calibration images",
        "check the graph with `toolkit verify` and the images with `toolkit predict`",
    )


def _code(low: float, high: float) -> int:
    """The index of the largest magnitude between ``low`` and ``high``."""
    return int(np.float32(max(abs(low), abs(high))).view(np.uint32)) >> _SHIFT
