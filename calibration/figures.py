"""How far the logits of a quantised graph are from those of its FP32 master, in figures that can be ranked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engines.errors import InputError
from export.metrics import accuracy, kl_divergence


@dataclass(frozen=True)
class Figures:
    """The error of one quantised graph over some images.

    Attributes:
        sqnr_db: signal to quantisation noise of the class-centred logits in dB, each image counted once; infinite
            where nothing differs, minus infinite where the quantised graph gave nothing but NaN.
        flips: images whose largest logit is another one.
        kl: the mean of KL(softmax(FP32) || softmax(quantised)) in nats.
        images: how many there were.
        accuracy: the share of images with the right label, in [0, 1]; None without labels.
    """

    sqnr_db: float
    flips: int
    kl: float
    images: int
    accuracy: float | None = None

    @property
    def agreement(self) -> float:
        """The share of images with the same largest logit, in [0, 1]."""
        return 1.0 - self.flips / self.images

    @property
    def noise(self) -> float:
        """The power of the noise over that of the signal: what sums over independent layers."""
        return float(np.power(10.0, -self.sqnr_db / 10.0))


def figures(reference: ArrayLike, found: ArrayLike, labels: ArrayLike | None = None) -> Figures:
    """Compare two sets of logits.

    A number added to all logits of an image changes no probability, so that each row counts without its mean. Every
    image counts once: of each the share of noise in the power of signal and noise is taken, and the mean of the
    shares is the noise. Summed over all images, as usual, a few with extreme logits would outweigh all others. Where
    the ratio is the same for every image both are the same number.

    Args:
        reference: [N, classes], of the FP32 graph.
        found: the same shape, of the quantised one.
        labels: [N], class indices.

    Raises:
        InputError: the shapes differ, or there are no images.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise InputError(
            f"logits of shapes {first.shape} and {second.shape} can't be compared", "give two sets of [N, classes]"
        )
    flips = int(np.count_nonzero(first.argmax(1) != second.argmax(1)))
    right = None if labels is None else accuracy(second, labels)
    whole = np.isfinite(second).all(1)
    noise_shares = np.ones(len(first))
    noise_shares[whole] = _noise_shares(_centred(first[whole]), _centred(second[whole]))
    sqnr = _decibels(float(noise_shares.mean()))
    kl = kl_divergence(first, second) if whole.all() else math.inf
    return Figures(sqnr, flips, kl, len(first), right)


def output_figures(reference: ArrayLike, found: ArrayLike, widths: Sequence[int]) -> Figures:
    """Compare the outputs of a network that isn't a classifier.

    As in :func:`figures` the noise of each sample is its share in the power of signal and noise, here of each output
    by itself, as it is (nothing is centred); every output and every sample counts the same, whatever their scale.
    There are no labels that could flip: ``flips`` is 0 and ``kl`` not a number.

    Args:
        reference: [N, values], the outputs of the FP32 graph behind each other.
        found: the same shape, of the quantised one.
        widths: values of each output.

    Raises:
        InputError: the shapes differ, or there are no samples.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size or first.shape[1] != sum(widths):
        raise InputError(
            f"outputs of shapes {first.shape} and {second.shape} can't be compared", "give two sets of one shape"
        )
    ends = np.cumsum(widths)[:-1]
    shares = []
    for signal, other in zip(np.split(first, ends, 1), np.split(second, ends, 1), strict=True):
        whole = np.isfinite(other).all(1)
        share = np.ones(len(signal))
        share[whole] = _noise_shares(signal[whole], other[whole])
        shares.append(float(share.mean()))
    return Figures(_decibels(float(np.mean(shares))), 0, math.nan, len(first))


def _decibels(share: float) -> float:
    """Signal over noise in dB, of the noise's share in their sum."""
    return math.inf if share == 0 else -math.inf if share == 1 else 10 * math.log10((1 - share) / share)


def _noise_shares(signal: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = np.square(signal - found).sum(1)
    power = np.square(signal).sum(1) + noise
    noise[power > 0] /= power[power > 0]
    return noise


def finite(value: float) -> float | str:
    """A figure as JSON has it: infinities, which JSON lacks, as the text "inf" and "-inf", which ``float`` reads."""
    return value if math.isfinite(value) else str(value)


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logits - logits.mean(-1, keepdims=True))
