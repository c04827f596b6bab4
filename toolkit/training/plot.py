"""Small plots of characters, for terminals: two by four dots of Braille a character."""

import itertools
import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bit of each dot by column and row (Unicode, Braille Patterns, U+2800 on)."""

Curve = Sequence[tuple[float, float]]


def plot(
    curves: Sequence[Curve], width: int, height: int, *, x: tuple[float, float], y: tuple[float, float]
) -> list[list[tuple[str, int]]]:
    """Draw curves over each other.

    Args:
        curves: points (x, y) in the order of x; what isn't finite is left out.
        width, height: in characters.
        x, y: the ranges that are shown; points outside are moved to the edge.

    Returns:
        Each row from the top: characters, each with the index of the last curve in it (-1 where there is none).
    """
    columns, rows = 2 * width, 4 * height
    dots = [[0] * width for _ in range(height)]
    owners = [[-1] * width for _ in range(height)]

    def place(value: float, low: float, high: float, count: int) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return min(max(round(share * (count - 1)), 0), count - 1)

    for number, curve in enumerate(curves):
        points = [(place(a, *x, columns), rows - 1 - place(b, *y, rows)) for a, b in curve if math.isfinite(a + b)]
        for column, row in _joined(points):
            dots[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
            owners[row // 4][column // 2] = number
    return [
        [(chr(0x2800 + bits) if bits else " ", owner) for bits, owner in zip(line, whose, strict=True)]
        for line, whose in zip(dots, owners, strict=True)
    ]


def _joined(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The points and the dots on straight lines between them."""
    dots = points[:1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots += [
            (round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))
            for step in range(1, steps + 1)
        ]
    return dots


def bounds(curves: Sequence[Curve]) -> tuple[float, float]:
    """The least and the largest finite y of all curves; (0, 1) where there is none."""
    values = [b for curve in curves for _, b in curve if math.isfinite(b)]
    return (min(values), max(values)) if values else (0.0, 1.0)
