"""How far logits moved, held against how far a change of one step of every pixel moves them.

No tolerance fits every network: what is much for one is nothing for another. But every classifier has a noise
floor that its own input sets: pixels are whole numbers, so that no picture is known to better than half a step.
The old artifact is asked the same pictures with every value one step up or down at random; the root mean square
of what that does to its logits is the unit.

Two things are measured in that unit. The *distance* is all of the movement. The *shift* is the part of it that is
systematic: what a straight line through (old logit, movement), one line a class, explains. Kernels that round
otherwise move logits to and fro; a wrong scale moves them in one direction, picture after picture, and is found by
that also in deep networks that answer loudly to any disturbance.

Measured in units of the floor, over every layer's weight scales and every activation's scale:

=========================================================  ============  ============
artifact and what was done to it                           distance      shift
=========================================================  ============  ============
other threads, batch sizes; no graph optimisations         0 to 0.19     0 to 0.03
OpenVINO instead of ONNX Runtime, INT8 and FP16            0 to 0.64     0 to 0.12
FP16 networks computed in bfloat16                         0.37 to 0.41  0.18 to 0.34
one scale halved: an INT8 AlexNet, four small networks     5.1 to 73     1.9 to 73
one scale halved: an INT8 ResNet of 20 layers              from 0.91     from 0.64
=========================================================  ============  ============

The limits of 2 and 0.25 lie between other kernels and a wrong scale on a logarithmic scale; another type is no
rebuild, and its logits may well be stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FLOOR_IMAGES = 128
"""Pictures that the floor is measured on: it is known to some 5 % then."""

LEAST_IMAGES = 8
"""Pictures below which nothing systematic can be told from chance."""


@dataclass
class Distance:
    """Root mean square of the differences of two artifacts' logits, added up batch by batch.

    Attributes:
        images: pictures on which both gave numbers.
        values: logits compared.
        squares: the sum of the differences' squares.
        flips: pictures of other top-1.
    """

    images: int = 0
    values: int = 0
    squares: float = 0.0
    flips: int = 0

    def add(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        """Count one batch: float32 [N, classes] each, in the same order of classes."""
        both = np.isfinite(old).all(axis=1) & np.isfinite(new).all(axis=1)
        difference = old[both].astype(np.float64) - new[both]
        self.images += int(both.sum())
        self.values += difference.size
        self.squares += float(np.square(difference).sum())
        self.flips += int((old[both].argmax(axis=1) != new[both].argmax(axis=1)).sum())

    @property
    def rms(self) -> float | None:
        """In the logits' own unit; None when nothing could be compared."""
        return math.sqrt(self.squares / self.values) if self.values else None

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "values": self.values, "squares": self.squares, "flips": self.flips}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(int(value["images"]), int(value["values"]), float(value["squares"]), int(value["flips"]))


@dataclass
class Shift:
    """The systematic part of how logits moved, by sums over the batches: float64 [classes] each.

    Attributes:
        images: pictures on which both gave numbers.
        sums: of x, d, x², xd, d², where x is the old logit and d the movement; float64 [5, classes].
    """

    images: int = 0
    sums: NDArray[np.float64] | None = None

    def add(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        """Count one batch: float32 [N, classes] each, in the same order of classes."""
        both = np.isfinite(old).all(axis=1) & np.isfinite(new).all(axis=1)
        x = old[both].astype(np.float64)
        d = new[both] - x
        found = np.stack([one.sum(axis=0) for one in (x, d, x * x, x * d, d * d)])
        self.sums = found if self.sums is None else self.sums + found
        self.images += len(x)

    @property
    def rms(self) -> float | None:
        """Root mean square of what the lines explain, in the logits' own unit.

        A line through mere noise explains two of N pictures' worth of it; that expectation is taken off. None for
        fewer than :data:`LEAST_IMAGES` pictures.
        """
        if self.sums is None or self.images < LEAST_IMAGES:
            return None
        n = self.images
        x, d, xx, xd, dd = self.sums / n
        spread = np.maximum(xx - x * x, 0)
        together = xd - x * d
        slope_part = np.divide(together**2, spread, out=np.zeros_like(spread), where=spread > 1e-12 * (xx + 1e-300))
        explained = d * d + slope_part
        noise = np.maximum(dd - explained, 0) * n / (n - 2)
        return math.sqrt(max(0.0, float((explained - 2 * noise / n).mean())))


def disturbed(pixels: NDArray[np.uint8], seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pictures with every value one step up or down at random; at 0 and 255 the only way there is.

    Args:
        pixels: uint8 of any shape.
        seed: the same gives the same disturbance.
    """
    up = np.random.default_rng(seed).integers(0, 2, pixels.shape, np.uint8).astype(np.bool_)
    up = (up | (pixels == 0)) & (pixels != 255)
    return np.where(up, pixels + np.uint8(1), pixels - np.uint8(1)).astype(np.uint8)
