"""Chooses a range for every tensor among what several methods propose, by what it does to the logits.

1. The proposals of each method as a whole. Methods that agree about every tensor count as one. Where the best of
   them is good, that is all.
2. Where it isn't, the reason is often that no method suits every tensor: one has outliers that must be clipped,
   another a long tail that must not. Then each tensor about which methods disagree gets the proposal that measures
   best with nothing quantised but what reads it: what else is wrong doesn't hide the difference. Between proposals
   that lie far apart stands their geometric mean.
3. Methods can agree and be wrong: one blinded image in a hundred is too frequent for an outlier, and yet what it
   holds must be clipped for the sake of the others. So where a tensor's readers alone aren't good still, its range
   is halved for as long as that gains something.
4. Errors aren't independent. From the best of these the tensors of step 2 are gone through again, now with everything
   quantised, and a proposal is taken where it gains something.

Tensors come in the order of the disagreement about them, the largest first; the number of measurements is bounded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from calibration.trials import SURELY_GOOD_DB, Amax, Bench, Trial, is_good

GAIN_DB = 0.1
"""What a range for one tensor has to gain to be taken."""

SAME = 1.02
"""Candidates whose ranges all differ by less than this factor are one."""

DISAGREE = 1.25
"""Proposals for a tensor that differ by more than this factor are worth a try each."""

FAR = 4.0
"""Between proposals that differ by more than this factor there is room for another."""

ALONE = 48
"""Measurements of proposals for one tensor alone, at most."""

HALVED = 64
"""Measurements of halved ranges, at most."""

MISSES = 2
"""Halvings in a row that gain nothing end the search."""

SEARCHED = "searched"
"""The origin of a range that no method proposed."""

PASSES = 2
TOGETHER = 32
"""Measurements of proposals for one tensor with everything quantised, at most."""


@dataclass
class Ranges:
    """A range for every tensor, and where it is from.

    Attributes:
        amax: by tensor.
        origins: the method that proposed it, by tensor.
        trial: how they measured.
        trials: the methods' trials, and whatever was better than all before it.
    """

    amax: Amax
    origins: dict[str, str]
    trial: Trial
    trials: list[Trial] = field(default_factory=list)

    def take(self, other: "Ranges") -> bool:
        """Become ``other`` if that gains something."""
        if other.trial.sqnr_db < self.trial.sqnr_db + GAIN_DB:
            return False
        self.amax, self.origins, self.trial = other.amax, other.origins, other.trial
        self.trials.append(other.trial)
        return True


def choose_ranges(bench: Bench, proposals: Mapping[str, Amax], refine: Callable[[], bool] = lambda: True) -> Ranges:
    """The ranges that measure best.

    Args:
        bench: measures them.
        proposals: by method a range for every tensor; the first of two that are as good is taken.
        refine: asked, where no method is good, whether to go on to single tensors.
    """
    tried: dict[str, Trial] = {}
    for name, amax in proposals.items():
        if not any(_same(amax, proposals[other], bench.groups) for other in tried):
            tried[name] = bench.measure(name, amax)
    winner = max(tried, key=lambda name: tried[name].sqnr_db)
    best = Ranges(
        dict(proposals[winner]), dict.fromkeys(proposals[winner], winner), tried[winner], list(tried.values())
    )
    if is_good(best.trial) or not refine():
        return best
    disputed = {group: found for group in bench.groups if (found := _disputed(group, proposals))}
    order = sorted(disputed, key=lambda group: -max(disputed[group].values()) / min(disputed[group].values()))
    ordered = {group: disputed[group] for group in order}
    if ordered:
        best.take(_each_alone(bench, best, ordered))
    if not is_good(best.trial):
        best.take(_halved(bench, best))
    _together(bench, best, ordered)
    return best


def _each_alone(bench: Bench, start: Ranges, disputed: Mapping[str, Mapping[str, float]]) -> Ranges:
    """Every disputed tensor with the proposal that measures best where only its readers are quantised."""
    amax, origins = dict(start.amax), dict(start.origins)
    most = bench.measured + ALONE
    for group, proposals in disputed.items():
        if bench.measured + len(proposals) > most or not (readers := bench.readers(group)):
            continue
        found = {
            origin: bench.measure(f"{group} alone: {origin}", {**amax, group: value}, only=readers).sqnr_db
            for origin, value in proposals.items()
        }
        origins[group] = max(found, key=lambda origin: found[origin])
        amax[group] = proposals[origins[group]]
    return start if amax == start.amax else Ranges(amax, origins, bench.measure("each tensor its own", amax))


def _halved(bench: Bench, start: Ranges) -> Ranges:
    """Every tensor whose readers alone aren't good with the half, quarter, ... of its range that measures best."""
    amax, origins = dict(start.amax), dict(start.origins)
    most = bench.measured + HALVED
    for group in bench.groups:
        readers = bench.readers(group)
        if not readers or bench.measured >= most:
            continue
        best = bench.measure(f"{group} alone", amax, only=readers)
        value, misses = amax[group], 0
        while best.sqnr_db < SURELY_GOOD_DB and misses < MISSES and bench.measured < most:
            value /= 2
            trial = bench.measure(f"{group} alone: {value:.3g}", {**amax, group: value}, only=readers)
            misses += 1
            if trial.sqnr_db >= best.sqnr_db + GAIN_DB:
                best, misses = trial, 0
                amax[group], origins[group] = value, SEARCHED
    return start if amax == start.amax else Ranges(amax, origins, bench.measure("searched ranges", amax))


def _together(bench: Bench, best: Ranges, disputed: Mapping[str, Mapping[str, float]]) -> None:
    """Improve ``best`` a tensor at a time."""
    most = bench.measured + TOGETHER
    for _ in range(PASSES):
        gained = False
        for group, proposals in disputed.items():
            for origin, value in proposals.items():
                if bench.measured >= most or is_good(best.trial):
                    return
                if _ratio(value, best.amax[group]) > SAME:
                    changed = {**best.amax, group: value}
                    trial = bench.measure(f"{group}: {origin}", changed)
                    gained |= best.take(Ranges(changed, {**best.origins, group: origin}, trial))
        if not gained:
            return


def _disputed(group: str, proposals: Mapping[str, Amax]) -> dict[str, float]:
    """The ranges to try for a tensor, widest first, by what proposes them; none where methods agree."""
    by_range = sorted(((amax[group], name) for name, amax in proposals.items() if amax[group] > 0), reverse=True)
    if not by_range or by_range[0][0] <= DISAGREE * by_range[-1][0]:
        return {}
    kept = by_range[:1]
    for value, name in by_range[1:]:
        if kept[-1][0] > DISAGREE * value:
            kept.append((value, name))
    found = {}
    for (wide, name), (narrow, other) in pairwise(kept):
        found[name] = wide
        if wide > FAR * narrow:
            found[f"{name}–{other}"] = (wide * narrow) ** 0.5
    return {**found, kept[-1][1]: kept[-1][0]}


def _same(first: Amax, second: Amax, groups: Iterable[str]) -> bool:
    return all(_ratio(first[group], second[group]) <= SAME for group in groups)


def _ratio(first: float, second: float) -> float:
    small, large = sorted((first, second))
    return large / small if small > 0 else 1.0 if large == small else float("inf")
