"""Intervals of measured times by a bootstrap that draws launches first, then turns inside them.

Runs within a turn, and turns within a launch, resemble each other more than those of another: what is drawn anew
must be the whole launch and the whole turn, or the interval holds less than it says (Kalibera and Jones, Rigorous
Benchmarking in Reasonable Time, ISMM 2013; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8). All intervals are percentile intervals, of seeded draws: the same times give the same interval.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Bootstrap samples: 10 lie beyond each end of a 99 % interval."""

LEAST_TURNS = 6
"""With fewer turns, over all launches, there is no interval: all of five lie on one side of the true one in 6 %."""

_BINS = 512
_SUMMARY_DRAWS = 1000

Array = NDArray[np.float64]


def percentile(times: Array, q: float) -> float:
    """The smallest time that at least ``q`` percent of the times kept (nearest rank)."""
    return float(np.quantile(times, q / 100, method="inverted_cdf"))


def summary_intervals(
    launches: Sequence[Sequence[Sequence[float]]], batch: int, confidence: float
) -> dict[str, tuple[float, float]]:
    """Intervals of what describes one artifact.

    Args:
        launches: launch by launch, turn by turn, the seconds of every run; turns may be empty.
        batch: images a run.
        confidence: of each interval, 0..1.

    Returns:
        (low, high) of "p50", "p95", "p99" in seconds and of "images_per_second"; empty with fewer than
        ``LEAST_TURNS`` turns.
    """
    grouped = [[np.asarray(turn, np.float64) for turn in launch if turn] for launch in launches]
    sizes = [len(turns) for turns in grouped if turns]
    turns = [turn for launch in grouped for turn in launch]
    if len(turns) < LEAST_TURNS:
        return {}
    weights = _turn_weights(sizes)
    edges = _edges(np.concatenate(turns))
    counts = np.array([np.bincount(np.searchsorted(edges, turn), minlength=len(edges)) for turn in turns])
    below = np.cumsum(weights @ counts.astype(np.float64), axis=1)
    drawn = {f"p{q}": edges[np.argmax(below >= (q / 100 - 1e-12) * below[:, -1:], axis=1)] for q in (50, 95, 99)}
    runs, seconds = (weights @ np.array([function(turn) for turn in turns], np.float64) for function in (len, np.sum))
    drawn["images_per_second"] = batch * runs / seconds
    return {name: _bounds(values, confidence) for name, values in drawn.items()}


def log_ratio_interval(
    launches: Sequence[Sequence[float]], confidence: float
) -> tuple[float, float | None, float | None]:
    """The mean over launches of the median over rounds, with its interval.

    A round's ratio is of turns that were neighbours in time, so that a clock that drifts or a machine that gets
    busy changes both. The median leaves out the round into which something else burst. The launch has an effect
    of its own that no number of rounds shows: of two processes with the same engine the one opened first may be
    some percent slower for as long as they live, by where its memory came to lie. Launches that were opened in
    opposite order have it with opposite signs, so their mean is free of it, and an interval drawn from both holds
    it. The interval of one launch holds noise only.

    Args:
        launches: launch by launch the logarithm of each round's ratio; NaN where a rival sat the round out.
        confidence: 0..1.

    Returns:
        The value and its bounds; the bounds are None with fewer than ``LEAST_TURNS`` rounds.

    Raises:
        ValueError: no round has both.
    """
    paired = [values[~np.isnan(values)] for values in (np.asarray(launch, np.float64) for launch in launches)]
    paired = [values for values in paired if len(values)]
    if not paired:
        raise ValueError("no round has both")
    value = float(np.mean([np.median(values) for values in paired]))
    if sum(map(len, paired)) < LEAST_TURNS:
        return value, None, None
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(paired), (DRAWS, len(paired)))
    medians = np.empty(chosen.shape, np.float64)
    for number, values in enumerate(paired):
        places = chosen == number
        drawn = values[rng.integers(0, len(values), (int(places.sum()), len(values)))]
        medians[places] = np.median(drawn, axis=1)
    low, high = _bounds(medians.mean(axis=1), confidence)
    return value, min(low, value), max(high, value)


def difference_interval(one: Array, other: Array, confidence: float) -> tuple[float, float | None, float | None]:
    """The difference of the medians of two samples that aren't paired, with its interval.

    Args:
        one, other: float64 [N] and [M], none of them empty.
        confidence: 0..1.

    Returns:
        The value and its bounds; None with fewer than ``LEAST_TURNS`` in either.
    """
    value = float(np.median(one) - np.median(other))
    if min(len(one), len(other)) < LEAST_TURNS:
        return value, None, None
    rng = np.random.default_rng(0)
    drawn = [np.median(x[rng.integers(0, len(x), (_SUMMARY_DRAWS, len(x)))], axis=1) for x in (one, other)]
    return (value, *_bounds(drawn[0] - drawn[1], confidence))


def _turn_weights(sizes: Sequence[int]) -> Array:
    """How often each turn is in each draw: float64 [draws, turns]; ``sizes`` are the launches' numbers of turns."""
    rng = np.random.default_rng(0)
    chosen = rng.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), _SUMMARY_DRAWS)
    # Of a launch drawn twice the turns are drawn twice as often, all anew.
    parts = [
        rng.multinomial(chosen[:, number] * size, [1 / size] * size).astype(np.float64)
        for number, size in enumerate(sizes)
    ]
    return np.concatenate(parts, axis=1)


def _edges(times: Array) -> Array:
    """The times themselves, or of very many the percentiles, closer together in the tail."""
    if len(times) <= _BINS:
        return np.unique(times)
    levels = np.concatenate([np.linspace(0, 0.9, _BINS // 2, endpoint=False), np.linspace(0.9, 1, _BINS // 2)])
    return np.unique(np.quantile(times, levels, method="inverted_cdf"))


def _bounds(values: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
