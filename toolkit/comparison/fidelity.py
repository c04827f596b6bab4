"""What an artifact of a network that isn't a classifier gives, against what the reference gives for the same samples.

Such a network has no labels to be right about: what can be told is how near each output is to the reference's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log10
from sys import float_info
from typing import Any, Self

import numpy as np

from engines.tensors import Array


@dataclass(frozen=True)
class OutputFidelity:
    """One output against the reference's.

    Attributes:
        name: the output's.
        sqnr_db: 10 log10(sum reference^2 / sum (reference - this)^2) over all samples; None where the two are
            identical, and for an output of integers. A reference of zeros alone counts as the smallest double.
        cosine: the mean over samples of the cosine between the two; None for an output of integers.
        max_error: the largest absolute difference, as a share of the reference's range (its largest minus its
            smallest value, over all samples); None for an output of integers.
        same: of integers the share of elements that are equal; of maps, float [N, C, H, W] with two or more
            channels, the share of places where the same channel is the largest; None for others.
        non_finite: samples of which it holds NaN or infinity where the reference doesn't; they are in ``same``, as
            different, and in no other figure.
    """

    name: str
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    same: float | None
    non_finite: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "max_error": self.max_error,
            "same": self.same,
            "non_finite": self.non_finite,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            value["name"],
            value["sqnr_db"],
            value["cosine"],
            value["max_error"],
            value["same"],
            value["non_finite"],
        )


@dataclass(frozen=True)
class Fidelity:
    """All outputs against the reference's.

    Attributes:
        samples: how many were asked.
        outputs: in the reference's order; empty for the reference itself.
    """

    samples: int
    outputs: tuple[OutputFidelity, ...] = ()

    @property
    def non_finite(self) -> int:
        """The most samples of which an output isn't finite."""
        return max((one.non_finite for one in self.outputs), default=0)

    @property
    def least_db(self) -> float:
        """The lowest SQNR of all float outputs; infinite where all are identical."""
        found = [one.sqnr_db for one in self.outputs if one.sqnr_db is not None]
        return min(found, default=inf)

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "outputs": [one.to_json() for one in self.outputs]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(value["samples"], tuple(map(OutputFidelity.from_json, value["outputs"])))


@dataclass
class OutputTally:
    """What :class:`OutputFidelity` is made of, counted batch by batch in fixed memory.

    ``left_out`` are the samples of which the reference itself isn't finite: they are in no figure.
    """

    name: str
    samples: int = 0
    left_out: int = 0
    non_finite: int = 0
    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0
    directed: int = 0
    largest: float = 0.0
    low: float = inf
    high: float = -inf
    equal: int = 0
    places: int = 0
    discrete: bool = False

    def add(self, reference: Array, found: Array) -> None:
        """Count one batch of both, [N, ...] of one shape."""
        count = len(reference)
        self.samples += count
        if reference.dtype.kind in "iub":
            self.discrete = True
            self.equal += int(np.count_nonzero(reference == found))
            self.places += reference.size
            return
        first, second = reference.astype(np.float64), found.astype(np.float64)
        both = np.isfinite(first).reshape(count, -1).all(1)
        fine = both & np.isfinite(second).reshape(count, -1).all(1)
        self.left_out += int(np.count_nonzero(~both))
        self.non_finite += int(np.count_nonzero(both & ~fine))
        if _is_map(first):
            same = first.argmax(1) == second.argmax(1)
            self.equal += int(np.count_nonzero(same[fine]))
            self.places += int(same[both].size)
        if not fine.any() or not first.size:
            return
        one, two = (values[fine].reshape(int(fine.sum()), -1) for values in (first, second))
        self.signal += float(np.square(one).sum())
        self.noise += float(np.square(one - two).sum())
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        told = norms > 0
        self.cosines += float(((one * two).sum(1)[told] / norms[told]).sum())
        self.directed += int(told.sum())
        self.largest = max(self.largest, float(np.abs(one - two).max()))
        self.low, self.high = min(self.low, float(one.min())), max(self.high, float(one.max()))

    def result(self) -> OutputFidelity:
        """The figures so far."""
        same = self.equal / self.places if self.places else None
        if self.discrete:
            return OutputFidelity(self.name, None, None, None, same, 0)
        extent = self.high - self.low
        return OutputFidelity(
            self.name,
            10 * (log10(max(self.signal, float_info.min)) - log10(self.noise)) if self.noise > 0 else None,
            min(1.0, self.cosines / self.directed) if self.directed else None,
            self.largest / extent if 0 < extent < inf else None,
            same,
            self.non_finite,
        )


def _is_map(values: Array) -> bool:
    return values.ndim == 4 and values.shape[1] >= 2
