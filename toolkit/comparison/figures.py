"""Figures of a comparison as text, the same in tables, verdicts and reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.benchmarking.timing import Interval
    from toolkit.comparison.accuracy.shares import Share
    from toolkit.comparison.fidelity import OutputFidelity


def milliseconds(seconds: float) -> str:
    """Three significant digits, microseconds at the finest, and never an exponent: "0.043", "4.34", "43.4", "434"."""
    value = 1000 * seconds
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate(value: float) -> str:
    """A number a second: "1,234", "12.3"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def size(count: int) -> str:
    """Decimal units, as disks are sold and file managers show: 1 MB is a million bytes."""
    scale: Sequence[tuple[str, float]] = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    for unit, factor in scale:
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count} B"


def percent(share: "Share | None") -> str:
    """A rate with two decimals; "-" for None."""
    return f"{100 * share.rate:.2f} %" if share else "-"


def percent_with_interval(share: "Share | None") -> str:
    """A rate with its Wilson interval: "99.72 % (98.4–100.0)"."""
    if share is None:
        return "-"
    low, high = share.interval
    return f"{100 * share.rate:.2f} % ({100 * low:.1f}–{100 * high:.1f})"


def closeness(one: "OutputFidelity") -> tuple[str, str, str, str]:
    """SQNR in dB, cosine, largest error as a share of the range, share that is the same; "-" for what it hasn't."""
    discrete = one.cosine is None and one.max_error is None
    sqnr = "-" if discrete else "identical" if one.sqnr_db is None else f"{one.sqnr_db:.1f}"
    return (
        sqnr,
        "-" if one.cosine is None else f"{one.cosine:.6f}",
        "-" if one.max_error is None else f"{100 * one.max_error:.2g} %",
        "-" if one.same is None else f"{100 * one.same:.2f} %",
    )


def ratio(value: "Interval | None") -> str:
    """How many times as fast: "2.83x (2.81–2.91)", without an interval where there is none."""
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return times(value.value)
    return f"{times(value.value)} ({_factor(value.low)}–{_factor(value.high)})"


def ratios(values: "Mapping[int, Interval]", what: str = "") -> str:
    """Ratios by batch size, the first with its interval: "0.34x (0.25–0.38) at batch 1, 0.41x at 8, 0.46x at 32"."""
    first, *others = sorted(values)
    text = f"{ratio(values[first])}{what} at batch {first}"
    return ", ".join([text, *(f"{times(values[batch].value)} at {batch}" for batch in others)])


def times(value: float) -> str:
    """A factor with two digits or more: "2.83x", "0.031x"."""
    return f"{_factor(value)}x"


def points(value: "Interval | None") -> str:
    """A difference of rates in points with its interval: "0.28 (-0.6 to 1.2)"."""
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return signed(value.value)
    return f"{signed(value.value)} ({signed(value.low, 1)} to {signed(value.high, 1)})"


def signed(share: float, decimals: int = 2) -> str:
    """A difference of rates in points, without a minus before a zero."""
    return f"{round(100 * share, decimals) + 0.0:.{decimals}f}"


def listed(words: Iterable[str], most: int = 8) -> str:
    """Words as "a, b and c"; the rest of a long list is counted."""
    names = list(words)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _factor(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"
