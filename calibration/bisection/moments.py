"""What two sets of values have in common: sums by channel, added up batch by batch, in float64."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_LIVE = 0.01
"""Channels with less than this share of the mean variance say nothing of a gain."""

_MANY = 16
"""A channel's own gain is looked at from this many values on."""


class Moments:
    """Sums over a reference ``y`` and the error ``e = found - y``, a number a channel.

    Channels are axis 1, or the last axis of three dimensions, as of a sequence.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: Doubles = np.zeros((5, 1))

    def add(self, sums: Doubles, count: int) -> None:
        """One batch.

        Args:
            sums: its :func:`moments`.
            count: the values of a channel.
        """
        self._sums = self._sums + sums
        self._count += count

    @property
    def finite(self) -> bool:
        """Whether nothing was NaN or infinite."""
        return bool(np.isfinite(self._sums).all())

    @property
    def signal(self) -> float:
        """Σ y²."""
        return float(self._sums[2].sum())

    @property
    def noise(self) -> float:
        """Σ e²; infinite where something wasn't finite."""
        return float(self._sums[4].sum()) if self.finite else math.inf

    def decibels(self) -> float:
        """The ratio of both in dB; infinite where nothing differs."""
        return ratio_db(self.signal, self.noise)

    def gain(self) -> float:
        """What all of ``y`` was multiplied by, offsets apart, by least squares; 1 where ``y`` doesn't vary."""
        variance = float(self._variances().sum())
        return 1.0 + float(self._covariances().sum()) / variance if variance > 0 else 1.0

    def gain_explains(self) -> float:
        """The share of the noise that one gain for all channels explains, in [0, 1]."""
        return min(1.0, (self.gain() - 1) ** 2 * self.signal / self.noise) if self.noise > 0 else 0.0

    def channel_gains(self) -> tuple[Doubles, Doubles]:
        """The gain of each channel that varies, less 1, and its standard error, if errors are independent."""
        variances = self._variances()
        if self._count < _MANY or not variances.any():
            return np.zeros(0), np.zeros(0)
        live = variances >= _LIVE * variances.mean()
        slopes = self._covariances()[live] / variances[live]
        errors = self._sums[4][live] - self._sums[1][live] ** 2 / self._count
        left = np.maximum(errors - slopes**2 * variances[live], 0)
        return slopes, np.sqrt(left / (self._count - 2) / variances[live])

    def offset(self) -> float:
        """The root mean square of the channels' mean errors, over the deviation of ``y`` within channels."""
        variance = float(self._variances().sum()) / max(self._count, 1)
        means = self._sums[1] / max(self._count, 1)
        return math.sqrt(float(np.square(means).sum()) / variance) if variance > 0 else 0.0

    def _variances(self) -> Doubles:
        found = self._sums[2] - self._sums[0] ** 2 / max(self._count, 1)
        # What is left of a constant channel's sums by rounding is no variance.
        return np.where(found > 1e-12 * self._sums[2], found, 0.0)

    def _covariances(self) -> Doubles:
        return np.asarray(self._sums[3] - self._sums[0] * self._sums[1] / max(self._count, 1))


def ratio_db(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``; infinite without noise, minus infinite with nothing but noise."""
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def moments(reference: Doubles, found: Doubles) -> Doubles:
    """float64 [5, channels]: Σy, Σe, Σy², Σye and Σe² of two tensors as :func:`rows` gives them."""
    with np.errstate(invalid="ignore", over="ignore"):
        errors = found - reference
        pairs = ((reference, reference), (reference, errors), (errors, errors))
        products = [np.einsum("ij,ij->i", left, right) for left, right in pairs]
        return np.stack([reference.sum(1), errors.sum(1), *products])


def rows(values: NDArray[Any]) -> Doubles:
    """float64 [channels, values] of a tensor."""
    if values.ndim < 2:
        return values.astype(np.float64).reshape(1, -1)
    moved = np.moveaxis(values, -1 if values.ndim == 3 else 1, 0)
    return moved.astype(np.float64).reshape(len(moved), -1)
