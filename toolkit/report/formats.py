"""How the report writes figures; where tables in the terminal show the same figure, it reads the same."""

from collections.abc import Callable, Mapping

from toolkit.comparison import figures

MINUS = "\N{MINUS SIGN}"

Format = Callable[[float], str]


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def size(amount: float) -> str:
    """Bytes with their decimal unit."""
    return figures.size(int(amount))


def seconds(value: float) -> str:
    """Seconds with three significant digits at most, and none below a millisecond."""
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share as per cent with two decimals."""
    return f"{100 * share:.2f} %"


def bound(share: float) -> str:
    """A bound of an interval of a share: per cent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def whole_percent(share: float) -> str:
    """A share as whole per cent; what is neither nothing nor all is never written as such."""
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def points(difference: float) -> str:
    """A difference of two shares in percentage points."""
    return figures.signed(difference).replace("-", MINUS)


def points_bound(difference: float) -> str:
    """A bound of an interval of such a difference."""
    return figures.signed(difference, 1).replace("-", MINUS)


def times_bound(ratio: float) -> str:
    """A bound of an interval of a speed ratio."""
    return figures.times(ratio).removesuffix("x")


def fraction(value: float) -> str:
    """A number from 0 to 1 that isn't read as a share: a calibration error, a weighted rate."""
    return f"{value:.4f}"


def small(value: float) -> str:
    """A number of any magnitude with three significant digits: a divergence, a p-value."""
    if value and abs(value) < 1e-4:
        return "< 0.0001" if value > 0 else f"> {MINUS}0.0001"
    return f"{value:.3g}".replace("-", MINUS)


def decibels(value: float) -> str:
    """A level in dB with one decimal."""
    return f"{value:.1f}".replace("-", MINUS)


def cosine(value: float) -> str:
    """A cosine near one."""
    return f"{value:.6f}".replace("-", MINUS)


def error(share: float) -> str:
    """A small share as per cent with two significant digits."""
    return f"{100 * share:.2g} %"


def amount(value: float) -> str:
    """MHz, watts, degrees, cores: whole from 100 on, two decimals below 10."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


FORMATS: Mapping[str, Format] = {
    "amount": amount,
    "bound": bound,
    "cosine": cosine,
    "count": count,
    "decibels": decibels,
    "error": error,
    "fraction": fraction,
    "milliseconds": figures.milliseconds,
    "percent": percent,
    "points": points,
    "points_bound": points_bound,
    "rate": figures.rate,
    "seconds": seconds,
    "size": size,
    "small": small,
    "times": figures.times,
    "times_bound": times_bound,
    "whole_percent": whole_percent,
}
"""By name, so that a figure that is shown can be rounded again and compared."""
