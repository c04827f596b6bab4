"""What accuracy alone doesn't tell: answers that got worse, surer than they are right, or that are no numbers."""

from collections.abc import Iterator

from toolkit.comparison.accuracy.against import CONFIDENT
from toolkit.comparison.accuracy.confidence import Confidence
from toolkit.comparison.figures import signed
from toolkit.comparison.records.record import Row, Verdict
from toolkit.comparison.verdicts.measured import Measured

GROWN, LEAST = 2.0, 0.01
"""A calibration error this many times the reference's, and this much more, is told."""


def doubts(measured: Measured, row: Row) -> Iterator[Verdict]:
    """Verdicts on one artifact's answers: "not-finite", "less-accurate", "overconfident", "confident-flips"."""
    if row.accuracy is None:
        return
    if row.accuracy.non_finite:
        yield _not_finite(row, row.accuracy.non_finite, row.accuracy.top1.total)
    reference = measured.reference_of(row)
    if reference is None or reference.name == row.name:
        return
    drop = measured.drop(row)
    if drop is not None and drop.low is not None and drop.high is not None and drop.low > 0:
        text = (
            f"loses {signed(drop.value)} points of top-1 against {reference.name}, beyond chance "
            f"({signed(drop.low)} to {signed(drop.high)})"
        )
        yield Verdict("less-accurate", row.name, text, {"reference": reference.name, "drop": drop.to_json()})
    theirs = reference.accuracy.confidence if reference.accuracy else None
    if row.accuracy.confidence is not None and theirs is not None:
        yield from _miscalibrated(row, row.accuracy.confidence, reference, theirs)
    against = row.accuracy.against
    if against is not None and against.confident:
        text = (
            f"{against.confident} of its {against.flips.count} flips are on images of which {reference.name} had no "
            f"doubt (first two classes more than {CONFIDENT:g} apart): rounding turns close calls, so look at these"
        )
        facts = {"confident": against.confident, "flips": against.flips.count, "weighted": against.weighted}
        yield Verdict("confident-flips", row.name, text, facts)


def _not_finite(row: Row, count: int, total: int) -> Verdict:
    precision = row.layers.precision if row.layers else ""
    fp16 = "; FP16 ends at 65504: build it in BF16, or keep the layer that overflows (--keep)"
    text = f"gives NaN or infinity for {count} of {total} images{fp16 if precision == 'fp16' else ''}"
    return Verdict("not-finite", row.name, text, {"images": count, "total": total, "precision": precision})


def _miscalibrated(row: Row, own: Confidence, reference: Row, theirs: Confidence) -> Iterator[Verdict]:
    if own.ece < GROWN * theirs.ece or own.ece - theirs.ece < LEAST:
        return
    kind = "overconfident" if _surplus(own) > 0 else "underconfident"
    text = (
        f"{'surer' if kind == 'overconfident' else 'less sure'} than it is right: its probabilities are off by "
        f"{signed(own.ece, 1)} points on average, those of {reference.name} by {signed(theirs.ece, 1)} "
        "(expected calibration error)"
    )
    yield Verdict(kind, row.name, text, {"ece": own.ece, "ece_reference": theirs.ece, "reference": reference.name})


def _surplus(confidence: Confidence) -> float:
    """Mean confidence minus accuracy, over all images."""
    filled = [
        (one.count, one.confidence, one.accuracy)
        for one in confidence.bins
        if one.confidence is not None and one.accuracy is not None
    ]
    total = sum(count for count, _, _ in filled)
    return sum(count * (sure - right) for count, sure, right in filled) / total if total else 0.0
