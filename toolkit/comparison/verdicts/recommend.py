"""Which artifact to take for a goal, why, and what speaks against being sure of it."""

import math
from collections.abc import Sequence
from typing import Any

from toolkit.benchmarking.timing import Interval
from toolkit.comparison.accuracy.paired import paired_interval
from toolkit.comparison.figures import listed, milliseconds, percent, rate, signed, size, times
from toolkit.comparison.goal import Goal
from toolkit.comparison.records.record import Row, Verdict
from toolkit.comparison.verdicts.choose import SAME_SIZE, Choice, fastest
from toolkit.comparison.verdicts.doubts import doubts
from toolkit.comparison.verdicts.faithful import LEAST_DB, cannot_judge, faithful, judged_by_outputs, outputs_text
from toolkit.comparison.verdicts.faithful import caveats as inapplicable
from toolkit.comparison.verdicts.measured import Measured, surely_faster

BALANCED = Goal("balanced")
"""The goal where none is given: the fastest that loses at most half a point."""

_RUNNERS_UP = 3
_MOST_IMAGES = 10_000_000
_BEST = {
    "latency": "the shortest median latency",
    "throughput": "the most images a second",
    "accuracy": "the highest top-1",
    "balanced": "the fastest",
}
_BUT = {
    "not-finite": "some of its answers are no numbers",
    "overconfident": "it is surer than it is right",
    "underconfident": "it is less sure than it is right",
    "confident-flips": "it flips images that the reference had no doubt about",
}


def recommendation(measured: Measured, rows: Sequence[Row], goal: Goal | None) -> Verdict | None:
    """The artifact of one run to take; None where none ran.

    - latency: the smallest median at ``goal.batch``, else at the smallest size timed;
    - throughput: the most images a second at any batch size, or at ``goal.batch``;
    - accuracy: the highest top-1, the faster of equals;
    - balanced: the fastest over all batch sizes that the candidates share (geometric mean of the medians).

    But for accuracy only those count whose drop in top-1 is at most ``goal.max_drop`` points, as far as accuracy was
    measured. Of a network that isn't a classifier those count that are near enough to the reference
    (:mod:`toolkit.comparison.verdicts.faithful`). Among those whose speed can't be told apart the smallest file is
    taken.
    """
    goal = goal or BALANCED
    ran = [row for row in rows if row.failure is None and (row.speeds or row.accuracy or row.fidelity)]
    if not ran:
        return None
    choice: Choice | None
    if judged_by_outputs(ran):
        if why := cannot_judge(ran, goal):
            return _nothing(goal, why)
        choice = fastest(measured, faithful(ran), goal)
    elif goal.aim == "accuracy":
        known = [row for row in ran if row.accuracy]
        if not known:
            return _nothing(goal, "accuracy wasn't measured; give --data")
        most = max(row.accuracy.top1.count for row in known if row.accuracy)
        first = [row for row in known if row.accuracy and row.accuracy.top1.count == most]
        choice = fastest(measured, first, Goal("balanced", goal.max_drop, goal.batch)) or Choice(first[0], ())
    else:
        candidates = _within(measured, ran, goal)
        if not candidates:
            return _none_holds(measured, ran, goal)
        choice = fastest(measured, candidates, goal)
    if choice is None:
        return _nothing(goal, f"batch {goal.batch} wasn't timed" if goal.batch else "nothing was timed")
    return _verdict(measured, choice, goal, [row for row in ran if row.name != choice.row.name])


def _within(measured: Measured, rows: Sequence[Row], goal: Goal) -> list[Row]:
    """The rows that lose few enough points; all of them where nobody's drop is known."""
    drops = [(row, measured.drop(row)) for row in rows]
    if all(drop is None for _, drop in drops):
        return list(rows)
    # A rate such as 1/200 is no exact binary number.
    return [row for row, drop in drops if drop is not None and drop.value <= goal.max_drop / 100 + 1e-9]


def _nothing(goal: Goal, why: str) -> Verdict:
    return Verdict("recommended", "", f"nothing for {goal.aim}: {why}", {"goal": goal.to_json()})


def _none_holds(measured: Measured, rows: Sequence[Row], goal: Goal) -> Verdict:
    drops = [(drop.value, row.name) for row in rows if (drop := measured.drop(row)) is not None]
    nearest = f"; {min(drops)[1]} loses the least, {signed(min(drops)[0])} points" if drops else ""
    return _nothing(goal, f"none loses {goal.max_drop:g} points of top-1 or less{nearest}")


def _verdict(measured: Measured, choice: Choice, goal: Goal, others: Sequence[Row]) -> Verdict:
    row, drop = choice.row, measured.drop(choice.row)
    texts = (
        _level_text(measured, choice),
        _unsure_text(row, drop, goal),
        _near_text(measured, row, goal),
        _but(measured, row),
    )
    caveats = [text for text in texts if text]
    if row.accuracy is None and row.fidelity is not None:
        caveats += inapplicable(goal)
    elif row.accuracy is None:
        caveats.append("Accuracy wasn't measured: `toolkit compare --data DATA` does")
    elif drop is None and goal.aim != "accuracy":
        caveats.append("What it loses isn't known: the reference has no accuracy")
    runners = _runners_up(measured, choice, others)
    sentences = [_why(measured, choice, goal, drop, others), *caveats]
    if runners:
        sentences.append("Next: " + listed(_runner_text(one) for one in runners))
    facts: dict[str, Any] = {
        "goal": goal.to_json(),
        "machine": row.machine,
        "batches": list(choice.batches),
        "p50_seconds": {str(batch): one.timing.p50 for batch, one in row.speeds.items()},
        "images_per_second": {str(batch): one.timing.images_per_second for batch, one in row.speeds.items()},
        "top1": row.accuracy.top1.rate if row.accuracy else None,
        "drop": drop and drop.to_json(),
        "size_bytes": row.size,
        "level": [one.name for one in choice.level],
        "caveats": caveats,
        "runners_up": runners,
    }
    return Verdict("recommended", row.name, ". ".join(sentences), facts)


def _why(measured: Measured, choice: Choice, goal: Goal, drop: Interval | None, others: Sequence[Row]) -> str:
    row, reference = choice.row, measured.reference_of(choice.row)
    is_reference = reference is not None and reference.name == row.name
    quick = "among the fastest" if choice.level else "the fastest"
    best = "among the fastest" if choice.level and goal.aim != "accuracy" else _BEST[goal.aim]
    if not others:
        best = "the only one that ran"
    elif goal.aim == "accuracy":
        ties = [one for one in others if row.accuracy and one.accuracy and one.accuracy.top1 == row.accuracy.top1]
        best = f"{quick} of {len(ties) + 1} with the highest top-1" if ties and choice.batches else best
    elif row.fidelity is not None and row.accuracy is None:
        best += f" of those within {LEAST_DB:g} dB SQNR of the reference at every output"
    elif drop is not None:
        best += f" of those that lose {f'at most {goal.max_drop:g} points' if goal.max_drop else 'nothing'}"
    figures: list[str] = []
    for batch in dict.fromkeys([*choice.batches[:1], *choice.batches[-1:]]):
        timing, found = row.speeds[batch].timing, row.speeds[batch].ratio
        images = f"{rate(timing.images_per_second)} images/s"
        text = images if goal.aim == "throughput" else f"{milliseconds(timing.p50)} ms"
        if batch > 1 and goal.aim not in {"throughput", "latency"}:
            text += f" ({images})"
        against = ""
        if found is not None and reference is not None:
            against = f", {times(found.value)} {'' if figures else 'the speed of '}{reference.name}"
        figures.append(f"{text} at batch {batch}{against}")
    if row.accuracy is not None:
        accuracy = f"top-1 {percent(row.accuracy.top1)}"
        if drop is not None and reference is not None and not is_reference:
            accuracy += f", {_loss(drop, reference)}"
        figures.append(accuracy)
    elif text := outputs_text(row, reference):
        figures.append(text)
    return f"{best}: {'; '.join(figures)}" if figures else best


def _loss(drop: Interval, reference: Row) -> str:
    if drop.value == 0:
        return f"as {reference.name}"
    return f"{signed(abs(drop.value))} points {'below' if drop.value > 0 else 'above'} {reference.name}"


def _level_text(measured: Measured, choice: Choice) -> str:
    """What couldn't be told from the choice: its interval holds 1, or the turns were too few for an interval."""
    if not choice.level:
        return ""
    ratios = [measured.ratio(row, choice.row, batch) for row in choice.level for batch in choice.batches]
    known = all(ratio is None or ratio.low is not None for ratio in ratios)
    level = "As fast within the interval" if known else "Timed in too few turns to be told apart"
    names = listed(f"{row.name} ({size(row.size)})" for row in choice.level)
    mine = size(choice.row.size)
    if all(row.size > SAME_SIZE * choice.row.size for row in choice.level):
        return f"{level}: {names}; it is the smallest file ({mine})"
    nearest = "no other's answers are nearer to the reference's"
    return f"{level}: {names}; it is no larger ({mine}), and {nearest}"


def _unsure_text(row: Row, drop: Interval | None, goal: Goal) -> str:
    """That the images are too few to be sure of the drop, and how many it would take."""
    if goal.aim == "accuracy" or drop is None or drop.high is None or row.accuracy is None:
        return ""
    if drop.high <= goal.max_drop / 100:
        return ""
    total = row.accuracy.top1.total
    text = f"On {total:,} images a drop of {signed(drop.high)} points can't be ruled out"
    needed = images_needed(row, drop, goal.max_drop / 100)
    return f"{text}; {needed:,} like these would rule out more than {goal.max_drop:g}" if needed else text


def images_needed(row: Row, drop: Interval, bound: float) -> int | None:
    """How many images, of which as many in a hundred differ as here, put the interval's upper end below ``bound``.

    Args:
        row: of which ``drop`` is.
        drop: what it loses, as a rate.
        bound: a rate above 0.

    Returns:
        Two digits of it; None where no number does: the drop itself is too near, or the record has no paired counts.
    """
    against = row.accuracy.against if row.accuracy else None
    if row.accuracy is None or against is None or drop.value >= bound:
        return None
    factor = 1.0
    while row.accuracy.top1.total * factor < _MOST_IMAGES:
        factor *= 1.1
        hurt, helped = round(against.hurt * factor), round(against.helped * factor)
        count = math.ceil(row.accuracy.top1.total * factor)
        if paired_interval(hurt, helped, count)[1] <= bound:
            unit = 1
            while count / unit >= 100:
                unit *= 10
            return math.ceil(count / unit) * unit
    return None


def _near_text(measured: Measured, row: Row, goal: Goal) -> str:
    """For the goal accuracy: a faster one whose accuracy can't be told from the best."""
    if goal.aim != "accuracy":
        return ""
    near = []
    for other in measured.rivals(row):
        difference = measured.difference(row, other)
        if difference is None or difference.low is None or difference.low > 0 or other.failure is not None:
            continue
        found = [one for batch in other.speeds if (one := measured.ratio(other, row, batch)) and surely_faster(one)]
        if found:
            value = max(one.value for one in found)
            near.append((value, f"{other.name} ({signed(difference.value)} points less, {times(value)} its speed)"))
    names = [text for _, text in sorted(near, reverse=True)[:_RUNNERS_UP]]
    return f"Faster, and not to be told from it in accuracy on these images: {listed(names)}" if names else ""


def _but(measured: Measured, row: Row) -> str:
    """What else is said of its answers, in short: there is a verdict on each."""
    found = [_BUT[verdict.kind] for verdict in doubts(measured, row) if verdict.kind in _BUT]
    return f"But {listed(found)}" if found else ""


def _runners_up(measured: Measured, choice: Choice, others: Sequence[Row]) -> list[dict[str, Any]]:
    """The next fastest: name, speed as a multiple of the one taken, drop as a rate."""
    found: list[dict[str, Any]] = []
    level = {row.name for row in choice.level}
    for other in others:
        ratios = [one for batch in choice.batches if (one := measured.ratio(other, choice.row, batch)) is not None]
        if ratios and other.name not in level:
            speed = math.exp(sum(math.log(one.value) for one in ratios) / len(ratios))
            drop = measured.drop(other)
            found.append({"name": other.name, "speed": speed, "drop": drop.value if drop else None})
    return sorted(found, key=lambda one: -one["speed"])[:_RUNNERS_UP]


def _runner_text(runner: dict[str, Any]) -> str:
    drop = runner["drop"] or 0.0
    change = f", {'losing' if drop > 0 else 'gaining'} {signed(abs(drop))} points" if drop else ""
    return f"{runner['name']} ({times(runner['speed'])} its speed{change})"
